"""One prompt in the simulated engine: its tokens as TGI shows them, and where TGI ends it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from enginebay.testing.simulators import tokens
from enginebay.testing.simulators.engine import SimulatedEngine
from enginebay.testing.simulators.exchange import Exchange
from enginebay.testing.simulators.request import SimulatedRequest, SimulatedSampling, StepToken
from enginebay.testing.simulators.wires.tgi.errors import Refusal, shard_failed
from enginebay.testing.simulators.wires.tgi.metrics import TgiMetrics
from enginebay.testing.simulators.wires.tgi.validation import ValidRequest

JsonFields = dict[str, object]
_NUM_KEPT_CHARACTERS = 300
"""What TGI keeps of the text to look for stop sequences in."""


@dataclass(slots=True)
class Gathered:
    """All of one generation, complete when `finish` is set."""

    tokens: list[JsonFields] = field(default_factory=list[JsonFields])
    top_tokens: list[list[JsonFields]] = field(default_factory=list[list[JsonFields]])
    ids: list[int] = field(default_factory=list[int])
    finish: str | None = None

    def text(self, valid: ValidRequest) -> str:
        """Special tokens are left out; a stop sequence stays."""
        generated = tokens.decode(self.ids)
        return valid.inputs + generated if valid.is_full_text else generated


class Generation:
    """A `Listener` of the engine, and what its answer is made of."""

    def __init__(
        self,
        valid: ValidRequest,
        engine: SimulatedEngine,
        metrics: TgiMetrics,
        *,
        seed: int,
        on_token: Callable[[Generation], None],
        on_failed: Callable[[Refusal], None],
    ) -> None:
        """seed: drawn for a request without one. on_token comes after each token, on_failed when the shard dies."""
        self.valid, self.gathered = valid, Gathered()
        self.seed = (valid.seed if valid.seed is not None else seed) if valid.is_sampled else None
        """As TGI tells it: None where it is greedy."""
        self._engine, self._metrics = engine, metrics
        self._on_token, self._on_failed = on_token, on_failed
        self._tail = ""

    def submit(self, exchange: Exchange) -> None:
        valid = self.valid
        sampling = SimulatedSampling(
            max_tokens=valid.max_new_tokens,
            temperature=valid.temperature if valid.is_sampled else 0.0,
            filters=valid.filters,
            seed=self.seed,
        )
        exchange.submit(SimulatedRequest(valid.prompt_token_ids, sampling, listener=self))

    @property
    def num_generated_tokens(self) -> int:
        return len(self.gathered.tokens)

    def on_token(self, request: SimulatedRequest, token: StepToken) -> None:
        gathered = self.gathered
        shown = self._shown(token)
        gathered.tokens.append(shown)
        gathered.ids.append(token.token_id)
        if self.valid.num_top_tokens:
            gathered.top_tokens.append(_top_tokens(token, self.valid.num_top_tokens))
        gathered.finish = self._finish(token, str(shown["text"]))
        if gathered.finish is not None:
            self._count(request)
            if request.finish_reason is None:
                self._metrics.num_stopped += 1
                self._engine.cancel(request)
        self._on_token(self)

    def on_failure(self, request: SimulatedRequest, reason: str) -> None:
        self._metrics.failures["generation"] += 1
        self._on_failed(shard_failed(reason))

    def prefill(self) -> list[JsonFields]:
        return [
            {
                "id": token_id,
                "text": tokens.token_text(token_id),
                "logprob": None if index == 0 else tokens.prompt_logprob(token_id),
            }
            for index, token_id in enumerate(self.valid.prompt_token_ids)
        ]

    def _shown(self, token: StepToken) -> JsonFields:
        special = tokens.SPECIAL_TEXTS.get(token.token_id)
        text = token.text if special is None else special
        return {"id": token.token_id, "text": text, "logprob": token.logprob, "special": special is not None}

    def _finish(self, token: StepToken, text: str) -> str | None:
        """TGI's order: length, end of sequence, stop sequence; the last only where the text ends with it."""
        if self.num_generated_tokens >= self.valid.max_new_tokens:
            return "length"
        if token.finish_reason is not None:
            return "eos_token"
        self._tail = (self._tail + text)[-_NUM_KEPT_CHARACTERS:]
        return "stop_sequence" if any(self._tail.endswith(stop) for stop in self.valid.stop) else None

    def _count(self, request: SimulatedRequest) -> None:
        now, arrived_at = self._engine.clock.now(), request.arrived_at
        scheduled_at = arrived_at if request.scheduled_at is None else request.scheduled_at
        metrics = self._metrics
        metrics.num_successes += 1
        metrics.observe("tgi_request_duration", now - arrived_at)
        metrics.observe("tgi_request_validation_duration", 0.0)
        metrics.observe("tgi_request_queue_duration", scheduled_at - arrived_at)
        metrics.observe("tgi_request_inference_duration", now - scheduled_at)
        mean_s = (now - scheduled_at) / self.num_generated_tokens
        metrics.observe("tgi_request_mean_time_per_token_duration", mean_s)
        metrics.observe("tgi_request_generated_tokens", self.num_generated_tokens)


def _top_tokens(token: StepToken, num: int) -> list[JsonFields]:
    return [
        {
            "id": token_id,
            "text": tokens.token_text(token_id),
            "logprob": logprob,
            "special": token_id in tokens.SPECIAL_TEXTS,
        }
        for token_id, logprob in token.alternatives(num)
    ]
