"""Pure functions over samples: percentiles, summaries, dispersion, effects and their errors. No I/O, no clock."""
