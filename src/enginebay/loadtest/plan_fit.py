"""Whether a backend can do what a plan asks: found out before anything is sent."""

from __future__ import annotations

from enginebay.errors import ContextTooLong
from enginebay.loadtest.plan import PlannedLoad
from enginebay.request_checks import check_request
from enginebay.types import BackendInfo


def check_plan_fits(planned_load: PlannedLoad, info: BackendInfo) -> None:
    """Raise RequestError if the backend cannot do what the plan asks."""
    for planned in (*planned_load.warmup, *planned_load.requests):
        check_request(planned.to_request(f"check-{planned.index}"), info)
        num_tokens = planned.num_prompt_tokens + planned.sampling.max_tokens
        if info.max_model_len is not None and num_tokens > info.max_model_len:
            raise ContextTooLong(
                num_tokens=planned.num_prompt_tokens,
                limit=info.max_model_len,
                max_tokens=planned.sampling.max_tokens,
            )
