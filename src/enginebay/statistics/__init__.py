"""Pure functions over samples: percentiles, summaries, dispersion. No I/O, no clock, no state."""
