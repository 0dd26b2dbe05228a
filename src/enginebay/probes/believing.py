"""Probes of whether what is told beside the text is true: token ids, log-probabilities, special tokens."""

from __future__ import annotations

import math
from collections import Counter

from enginebay.backend import Backend
from enginebay.probes.asking import Answer, again, ask, ask_all, greedy, plain_prompt
from enginebay.probes.probe import Probe, ProbeSkipped, expect
from enginebay.probes.prompts import count_tokens
from enginebay.probes.sampling import TEXTS, token_ids
from enginebay.probes.stopping import self_ending
from enginebay.types import Feature, FinishReason, GenerationRequest, Text, TokenLogprob

_NUM_DRAWS = 32
"""Of each text. Four texts together tell a probability from its square, and a constant from neither."""
_SEED_STEP = 7919
_SURE = 0.9
_MOST_SIGMAS = 4.0
_LEAST_SLACK = 0.02
_SAME_LOGPROB = 0.1
"""Of one token, asked for twice: in bfloat16 another kernel for another batch moves it a little."""


async def _ids_are_of_the_text(backend: Backend) -> str:
    """Half of them will do: a model may spell a word otherwise than its tokenizer would, and end inside a character."""
    if Feature.COUNT_TOKENS not in backend.info.capabilities:
        raise ProbeSkipped("the engine does not tell the ids of a text")
    answer = await ask(backend, greedy(backend, max_tokens=16))
    told = Counter(token_ids(answer))
    num_shared = (told & Counter(await count_tokens(backend, Text(answer.text)))).total()
    expect(
        2 * num_shared >= told.total(),
        f"{num_shared} of the {told.total()} ids that came with {answer.text!r} are ids of that text",
    )
    return f"{num_shared} of {told.total()} ids"


# ---------------------------------------------------------------- log-probabilities


async def _logprobs_are_of_their_tokens(backend: Backend) -> str:
    request = again(greedy(backend, max_tokens=12), logprobs=0)
    first, second = _logprobs(await ask(backend, request)), _logprobs(await ask(backend, again(request, max_tokens=1)))
    if not first or not second:
        raise ProbeSkipped("no token came")
    values = {round(entry.logprob, 4) for entry in first}
    expect(len(first) < 4 or len(values) > 1, f"{len(first)} different tokens all have the logprob {min(values):g}")
    for one, other in zip(first, second, strict=False):
        expect(
            one.token != other.token or abs(one.logprob - other.logprob) <= _SAME_LOGPROB,
            f"the logprob of {one.token!r} is {one.logprob:g}, then {other.logprob:g}",
        )
    return f"{len(values)} values of {len(first)} tokens"


async def _draws_follow_the_logprobs(backend: Backend) -> str:
    """How often the most probable token is drawn, of several texts together, is its probability as it is told."""
    if backend.info.simulated:
        raise ProbeSkipped("a simulator draws by no probabilities")
    texts = await _undecided_texts(backend)
    if not texts:
        raise ProbeSkipped("of every next token the model is sure")
    num_drawn, expected, variance = 0, 0.0, 0.0
    for index, (request, best) in enumerate(texts):
        # Seeds of each text's own: equal ones are equal noise, and the texts would stand and fall together.
        seeds = [_SEED_STEP * (index * _NUM_DRAWS + number + 1) for number in range(_NUM_DRAWS)]
        drawn = await ask_all(backend, [_draw(backend, request, seed) for seed in seeds])
        probability = math.exp(best.logprob)
        num_drawn += sum(answer.text == best.token for answer in drawn)
        expected += _NUM_DRAWS * probability
        variance += _NUM_DRAWS * probability * (1 - probability)
    slack = _MOST_SIGMAS * math.sqrt(variance) + _LEAST_SLACK * _NUM_DRAWS * len(texts)
    num_draws = _NUM_DRAWS * len(texts)
    expect(
        abs(num_drawn - expected) <= slack,
        f"the most probable token was drawn {num_drawn} of {num_draws} times; by its logprobs it is {expected:.1f}",
    )
    return f"{num_drawn} of {num_draws} draws, {expected:.1f} by the logprobs"


async def _undecided_texts(backend: Backend) -> list[tuple[GenerationRequest, TokenLogprob]]:
    """Up to four requests for one token whose best is not sure, most even first, and that best token as its text."""
    requests = [greedy(backend, prompt=plain_prompt(backend, text), max_tokens=1) for text in TEXTS]
    answers = [await ask(backend, again(request, logprobs=0)) for request in requests]
    found = [
        (request, TokenLogprob(None, answer.text, entry.logprob))
        for request, answer in zip(requests, answers, strict=True)
        for entry in _logprobs(answer)[:1]
        if answer.text and answer.finish_reason is FinishReason.LENGTH and math.exp(entry.logprob) <= _SURE
    ]
    return sorted(found, key=lambda pair: abs(math.exp(pair[1].logprob) - 0.5))[:4]


def _draw(backend: Backend, request: GenerationRequest, seed: int) -> GenerationRequest:
    """Seeded where that can be, so that the same engine comes to the same result tomorrow."""
    has_seeds = Feature.SEED in backend.info.capabilities
    return again(request, temperature=1.0, seed=seed if has_seeds else None)


def _logprobs(answer: Answer) -> tuple[TokenLogprob, ...]:
    return answer.whole.logprobs or ()


# ---------------------------------------------------------------- special tokens


async def _special_tokens_are_shown(backend: Backend) -> str:
    """The end of sequence is one, and with ignore_eos it stands inside an answer."""
    for needed in (Feature.IGNORE_EOS, Feature.OUTPUT_TOKEN_IDS):
        if needed not in backend.info.capabilities:
            raise ProbeSkipped(f"without {needed.value} no special token is known to be inside an answer")
    request, num_tokens = await self_ending(backend, least=1)
    end = token_ids(await ask(backend, request))[-1]
    request = again(request, ignore_eos=True, max_tokens=num_tokens + 4)
    hidden, shown = await ask(backend, request), await ask(backend, again(request, skip_special_tokens=False))
    if end not in token_ids(hidden)[:-1] or token_ids(hidden) != token_ids(shown):
        raise ProbeSkipped("no special token came inside the answer")
    expect(
        len(shown.text) > len(hidden.text),
        f"token {end} ends answers, and the text is {shown.text!r} with special tokens, {hidden.text!r} without",
    )
    return repr(shown.text)


BELIEVING_PROBES = (
    Probe(
        name="token ids are those of the text",
        description="count_tokens gives at least half of the told ids for the text that came with them.",
        run=_ids_are_of_the_text,
        feature=Feature.OUTPUT_TOKEN_IDS,
    ),
    Probe(
        name="logprobs differ from token to token and repeat themselves",
        description="Not one value for twelve tokens; the first of them has the same one when asked again.",
        run=_logprobs_are_of_their_tokens,
        feature=Feature.LOGPROBS,
    ),
    Probe(
        name="draws follow the logprobs",
        description="At temperature 1 the most probable token comes as often as its logprob says, within 4 sigma.",
        run=_draws_follow_the_logprobs,
        feature=Feature.LOGPROBS,
        time_limit_s=180.0,
    ),
    Probe(
        name="special tokens are shown when asked for",
        description="skip_special_tokens=False: an end of sequence inside an answer is part of its text.",
        run=_special_tokens_are_shown,
        feature=Feature.KEEP_SPECIAL_TOKENS,
    ),
)
