"""One request before the first: kernels choose their paths and take their buffers before anyone waits for them."""

from __future__ import annotations

from enginebay.engine.numerics import Runner, TokenSampler
from enginebay.engine.plan import ScheduledSequence, StepPlan
from enginebay.engine.request import EngineRequest
from enginebay.engine.sequence import Sequence
from enginebay.errors import ModelError

NUM_PROMPT_TOKENS = 8


def warm_up(runner: Runner, sampler: TokenSampler, *, max_model_len: int, block_size: int) -> None:
    """Compute a prompt and one more token in the first blocks, which belong to nobody yet; nothing is counted.

    max_model_len: at least 2. Raises ModelError for a model that gives no usable logits.
    """
    num_tokens = min(NUM_PROMPT_TOKENS, max_model_len - 1)
    request = EngineRequest(
        request_id="warm-up", prompt_token_ids=[0] * num_tokens, max_tokens=2, seed=0, temperature=1.0, top_p=0.9
    )
    sequence = Sequence(request, arrived_at=0.0)
    sequence.block_table = list(range(1, num_tokens // block_size + 2))
    for _ in range(2):
        item = ScheduledSequence(
            sequence,
            sequence.num_computed_tokens,
            sequence.num_tokens - sequence.num_computed_tokens,
            samples=True,
        )
        plan = StepPlan([item])
        [[token]] = sampler.sample(runner.forward(plan), plan)
        if token.error is not None:
            raise ModelError(f"the model cannot be used: {token.error}")
        sequence.num_computed_tokens = sequence.num_tokens
        sequence.token_ids.append(token.token_id)
