"""What a `ScriptedServer` does with a generation request: how much it says, how fast, and what goes wrong."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

DEFAULT_TEXTS = (" the", " quick", " brown", " fox", " jumps", " over", " a", " lazy", " dog", ",", " again")


class Fault(StrEnum):
    REFUSE = "refuse"
    """Closes the connection without an answer."""
    LOADING = "loading"
    """503, as while a model loads."""
    OVERLOADED = "overloaded"
    """503 with Retry-After."""
    INTERNAL_ERROR = "internal_error"
    """500 with an OpenAI error body."""
    STALL = "stall"
    """Sends nothing more, and leaves the connection open."""
    CUT = "cut"
    """Closes the connection in the middle of the stream."""
    MALFORMED = "malformed"
    """An event that is not JSON."""
    ERROR_EVENT = "error_event"
    """An error inside the stream, which has status 200."""
    WRONG_USAGE = "wrong_usage"
    """Counts one output token more than it sent."""
    NO_USAGE = "no_usage"
    NO_FINISH = "no_finish"
    """`[DONE]` without a finish reason."""
    NO_DONE = "no_done"
    """Ends without `[DONE]`."""
    UNKNOWN_FINISH = "unknown_finish"
    """A finish reason that no server should have."""
    CLOSE = "close"
    """Says `connection: close` and does so."""
    CLOSE_SILENTLY = "close_silently"
    """Closes the kept-alive connection after the answer, unannounced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    num_tokens: int | None = None
    """None is the request's max_tokens; never more than that."""
    texts: tuple[str, ...] = DEFAULT_TEXTS
    """Token i is `texts[i % len(texts)]`, its id is i."""
    head_after_s: float = 0.0
    """From the request to status and headers."""
    first_token_after_s: float = 0.0
    """From the headers to the first token."""
    token_gap_s: float = 0.0
    tokens_per_event: int = 1
    fault: Fault | None = None
    fault_after_tokens: int = 0
    """For the faults in the middle of a stream."""

    @property
    def is_instant(self) -> bool:
        return not (self.head_after_s or self.first_token_after_s or self.token_gap_s)
