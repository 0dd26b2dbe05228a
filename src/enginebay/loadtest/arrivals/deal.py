"""Shares of one plan for several processes. Arrivals are dealt like cards: together the shares are the plan, exactly.

A process never draws arrivals of its own: with one seed for all of them, every gap would come as often as there are
processes, and a Poisson process would arrive in bursts of that size.
"""

from __future__ import annotations

from collections.abc import Sequence

from enginebay.loadtest.plan import PlannedRequest


def deal(requests: Sequence[PlannedRequest], num_workers: int) -> list[list[PlannedRequest]]:
    """One share for each worker, in the order of the plan, with the offsets that they have in it.

    The turns of a conversation stay together, since each waits for the one before. Raises ValueError below one worker.
    """
    if num_workers < 1:
        raise ValueError(f"there is at least one worker, not {num_workers}")
    shares: list[list[PlannedRequest]] = [[] for _ in range(num_workers)]
    worker_of: dict[int, int] = {}
    num_dealt = 0
    for request in requests:
        if request.after is None:
            worker_of[request.index] = num_dealt % num_workers
            num_dealt += 1
        else:
            worker_of[request.index] = worker_of[request.after]
        shares[worker_of[request.index]].append(request)
    return shares


def deal_users(num_users: int, num_workers: int) -> list[int]:
    """Users of each worker in a closed loop: as equal as can be, the first ones have one more."""
    each, left = divmod(num_users, num_workers)
    return [each + (worker < left) for worker in range(num_workers)]
