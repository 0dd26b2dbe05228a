"""One entry for each call, however it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal

from enginebay.gateway.call import Attempt, Call, Outcome
from enginebay.gateway.hooks import GatewayHook
from enginebay.gateway.ledger.entry import Entry
from enginebay.gateway.ledger.journal import Journal
from enginebay.gateway.ledger.prices import Prices


class LedgerHook(GatewayHook):
    """Since `at_end` comes before the last byte of an answer, no answer that a client has whole lacks its entry.

    That holds after `kill -9` too; a power cut may cost the entries of the last second. The other way round an entry
    may exist of an answer whose last byte was never sent.
    """

    def __init__(self, journal: Journal, prices: Prices, *, unix_now: Callable[[], float] = time.time) -> None:
        self._journal, self._prices, self._unix_now = journal, prices, unix_now

    def at_end(self, call: Call, outcome: Outcome) -> None:
        duration_s = outcome.ended_at - call.arrived_at
        first_token_at = call.first_token_at
        cost_nano = self._prices.cost_of(call.model, outcome)
        self._journal.append(
            Entry(
                request_id=call.request_id,
                arrived_at_unix=self._unix_now() - duration_s,
                duration_s=duration_s,
                ttft_s=None if first_token_at is None else first_token_at - call.arrived_at,
                key_id=call.client.key_id,
                model=call.model,
                version=call.version,
                replica=call.attempts[-1].replica if call.attempts else "",
                num_choices=len(call.requests),
                num_attempts=len(call.attempts),
                resumed=_resumed(call.attempts),
                outcome=outcome.kind,
                error_code=outcome.error_code,
                num_prompt_tokens=outcome.num_prompt_tokens,
                num_cached_tokens=outcome.num_cached_tokens,
                num_output_tokens=outcome.num_output_tokens,
                num_unbilled_tokens=outcome.num_unbilled_tokens,
                cost_nano=cost_nano,
                currency=None if cost_nano is None else self._prices.currency,
            )
        )


def _resumed(attempts: Sequence[Attempt]) -> Literal["exact", "approximate"] | None:
    """The weaker of what its attempts say."""
    if len(attempts) < 2:
        return None
    kinds = {attempt.resumed for attempt in attempts}
    return "approximate" if "approximate" in kinds else "exact" if "exact" in kinds else None
