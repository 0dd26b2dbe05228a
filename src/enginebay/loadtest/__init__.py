"""Identical load for every engine: a frozen plan, replayed and measured on one clock.

plan       what is sent and when, frozen and hashed        runner   replays it against one backend
arrivals   when requests arrive                            records  what happened to each request
workloads  what they ask                                   metrics  records -> figures, pure functions
hosting    an in-process engine behind a child server      session  all of it, for each backend and load
"""
