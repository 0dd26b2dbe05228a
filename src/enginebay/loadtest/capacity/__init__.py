"""The highest rate at which the service levels hold, found by few noisy probes, with an interval.

levels       what has to hold, and for which share of the requests     misses     who missed it in one probe
posterior    what the probes so far say about the capacity             search     which rate to try next
saturation   when a probe may be given up                              session    the probes on a started backend
"""
