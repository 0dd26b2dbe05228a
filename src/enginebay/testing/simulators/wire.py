"""What differs between simulated engines: a `Wire` speaks one engine's protocol over the shared `SimulatedEngine`.

How to write `wires/<kind>.py`, or a package of that name where it is long (`wires/vllm/` is the example):

1. `FLAGS = FlagTable(...)`: the engine's real launch flags, with its defaults, choices and the words of its parser.
2. `configure(values, profile) -> Launch`: what those flags change: the model's name, and `replace(profile, ...)` for
   max_num_seqs, max_model_len, KV size, queue limit and so on. `values` stay at hand in `Launch.values`, so that the
   engine's info routes can tell its effective settings.
3. A class with the methods of `Wire`. In `handle`, parse the request, check it as the engine does, and either
   `exchange.reply(status, body)`, or make one `SimulatedRequest(prompt_token_ids, SimulatedSampling(...),
   listener=self_made_listener)` per choice and `exchange.submit(request)` it. The listener's `on_token(request, token)`
   is called once for each token; it sends events (`exchange.begin_stream()` before the first, `exchange.send(event)`,
   `exchange.finish()` after the last) or, where the answer is not streamed, gathers and replies at the token whose
   `finish_reason` is set. Report `request.num_output_tokens + exchange.num_wrong_usage` as the usage.
   Prompts: `launch.vocabulary.encode(text, adds_special_tokens=...)` (`configure` gives `vocabulary_of(place)` of the
   model's flag). Answers: `tokens.token_text(id)`, `tokens.decode(ids)`; `tokens.END_ID` ends an answer and has no
   text. Texts may be empty in the middle of a character. Chats: `chat_text.render_chat(messages)`.
4. Metrics: in the constructor, `engine.metrics.track("ttft_s", buckets)` for each histogram that the engine publishes;
   write them with `Exposition` under the engine's names. `str(exposition)` ends with `enginebay_simulated 1`: the
   engine's metrics route must reply with that text.
5. `WIRE = WireSpec(...)` in the module of the kind's name. `simulators.find_wire(kind)` finds it by that name.
   Engines that speak the OpenAI API derive from `openai_answer.OpenAIAnswer` and read bodies with `openai_body`.

Limits: one loop, no waiting: every method returns at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from enginebay.testing.simulators.engine import SimulatedEngine
from enginebay.testing.simulators.exchange import Exchange, HttpRequest
from enginebay.testing.simulators.flags import FlagTable, Values
from enginebay.testing.simulators.performance import SimulatorProfile
from enginebay.testing.simulators.vocabulary import OWN_VOCABULARY, Vocabulary

DEFAULT_MODEL = "simulated"


def allowed_methods(routes: Iterable[tuple[str, str]], path: str) -> dict[str, str]:
    """The headers of a 405: what a path that exists may be asked with; none where it does not."""
    methods = sorted(method for method, known in routes if known == path)
    return {"allow": ", ".join(methods)} if methods else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A command line, understood."""

    model: str
    """The first name that requests may use."""
    profile: SimulatorProfile
    """With what the flags change."""
    values: Values
    port: int | None = None
    """As the flags say; None where they do not."""
    vocabulary: Vocabulary = OWN_VOCABULARY
    """Reads the texts of prompts."""


class Wire(Protocol):
    """One engine's protocol. Made once for a simulator; `engine` and `launch` come through its constructor."""

    def is_generation(self, request: HttpRequest) -> bool:
        """These are counted, and struck by faults."""
        ...

    def handle(self, request: HttpRequest, exchange: Exchange) -> None:
        """Any request, while the engine is loaded and alive. Unknown paths get the engine's own 404."""
        ...

    def while_loading(self, request: HttpRequest, exchange: Exchange) -> None:
        """Any request before the engine is loaded; `exchange.abort()` for an engine that does not listen then."""
        ...

    def when_overloaded(self, request: HttpRequest, exchange: Exchange) -> None:
        """A generation under the fault `overload`; an engine that never refuses for load calls `handle`."""
        ...

    def when_dead(self, request: HttpRequest, exchange: Exchange) -> None:
        """Any request after the engine died inside a server that lives (`engine.death_reason`)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WireSpec:
    """What a module of `wires` offers as `WIRE`."""

    kind: str
    version: str
    """The engine's version whose protocol this is."""
    flags: FlagTable
    configure: Callable[[Values, SimulatorProfile], Launch]
    """Raises ConfigError in the engine's own words, as for unknown flags."""
    create: Callable[[Launch, SimulatedEngine], Wire]
    metrics_path: str = "/metrics"
    listens_while_loading: bool = False
    """False: connections are refused until the engine is loaded."""
    usage_exit_code: int = 2
    """Of a command line that the engine refuses."""
