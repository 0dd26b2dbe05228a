"""When requests arrive: absolute offsets from the start of a run, drawn once, from one seeded stream for each load.

Offsets are absolute so that a late request does not push the ones behind it, and they are never rescaled to meet the
asked rate exactly: that would take the variance out of a random process.

schedule   a load -> its offsets            gaps    constant, exponential and gamma gaps of mean 1
rates      a rate that changes: ramp, steps sweep   one load for each of several rates
deal       shares for several processes: dealt, never drawn again
"""

from enginebay.loadtest.arrivals.deal import deal, deal_users
from enginebay.loadtest.arrivals.schedule import offsets_of
from enginebay.loadtest.arrivals.sweep import sweep_rates

__all__ = ["deal", "deal_users", "offsets_of", "sweep_rates"]
