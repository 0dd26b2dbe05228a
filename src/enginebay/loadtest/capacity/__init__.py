"""The highest rate at which the service levels hold, found by few noisy probes, with an interval.

levels     what has to hold, and for which share     misses        who missed it in one probe
posterior  what the probes say about the capacity    search        which rate to try next
saturation when a probe is given up                  probing       one probe on a started backend
energy     what this machine used meanwhile          cost          money and energy for a million good tokens
session    all backends, one after the other         start_search  the search on one start of one of them
ratio      of two backends' capacities               result        capacity.json
"""
