"""Which drafts are kept, where they were not drawn but follow from the tokens before them.

Such a draft is a distribution with all its weight on one token, q(draft) = 1. Rejection sampling (see `rejection.py`)
then accepts it with probability p(draft), and otherwise draws from p without the draft. That is the law of something
simpler: draw a token from p as always, and go on as long as it is the draft. So every row is sampled with the noise of
its own position, as it would be in a step of its own, and the tokens are the same as without speculation: for every
seed and temperature, not only in distribution.
"""

from __future__ import annotations

from enginebay.engine.logits import SampledToken


def verified(draft_token_ids: list[int], sampled: list[SampledToken]) -> list[SampledToken]:
    """sampled: what follows the newest token, and what follows each draft; the tokens that stand.

    Where a row that would stand failed, the tokens before it do: the row is computed again in the next step.
    """
    num_accepted = num_accepted_drafts(draft_token_ids, sampled)
    for index, token in enumerate(sampled[1 : num_accepted + 1]):
        if token.error is not None:
            return sampled[: index + 1]
    return sampled[: num_accepted + 1]


def num_accepted_drafts(draft_token_ids: list[int], sampled: list[SampledToken]) -> int:
    """A token drawn in place of a rejected draft never equals it: the drafts that were accepted are those repeated."""
    for index, (draft, token) in enumerate(zip(draft_token_ids, sampled, strict=False)):
        if token.token_id != draft or token.error is not None:
            return index
    return min(len(draft_token_ids), len(sampled))
