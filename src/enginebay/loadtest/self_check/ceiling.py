"""What this client reaches on this machine: a run that asks for more measures the client and not the engine."""

from __future__ import annotations

from pathlib import Path

import msgspec

from enginebay.errors import LoadTestError
from enginebay.loadtest.environment import Environment
from enginebay.loadtest.files import write_atomically
from enginebay.models.cache import default_cache_root

CEILING_VERSION = 1


class ClientCeiling(msgspec.Struct, frozen=True, kw_only=True):
    """Of one process of the client. Several processes on as many processors reach as many times that."""

    version: int = CEILING_VERSION
    requests_per_s: float
    """Streamed answers of `num_tokens` tokens in as many chunks, closed loop of `num_users`, an instant server. Goes on
    for ever: what is decoded after the last answer is counted in."""
    burst_requests_per_s: float
    """The same until the last answer was there, which holds as long as there is memory for what is not decoded yet."""
    chunks_per_s: float
    """Chunks with tokens, of long answers that the server sends as fast as it can."""
    num_streams: int
    """Most streams at the same time whose every token was stamped within `max_stamp_error_s` of its sending, at p99.
    1,024 are the most that is tried."""
    stream_tokens_per_s: float
    """What each of those streams got."""
    max_stamp_error_s: float
    num_users: int
    num_tokens: int
    ttft_error_p50_s: float
    """Measured TTFT less the true one, in absolute value, at `timing_requests_per_s`."""
    ttft_error_p99_s: float
    timing_requests_per_s: float
    offset_error_p50_s: float
    """From the scheduled instant to the arrival at the server, at `offset_requests_per_s`."""
    offset_error_p99_s: float
    offset_requests_per_s: float
    num_wrong_token_counts: int
    """Answers whose recorded number of tokens was not what the server had sent. Anything but 0 is a fault."""
    server_requests_per_s: float
    """What the instant server itself answers when a client asks that reads nothing: it must lie above ours."""
    environment: Environment
    measured_at: str
    """Wall-clock time, ISO 8601 in UTC; nothing is computed from it."""

    @property
    def is_bounded_by_server(self) -> bool:
        """Where the server itself was no faster, the client's own ceiling lies above what was measured."""
        return self.server_requests_per_s < 1.2 * self.burst_requests_per_s


def ceiling_path() -> Path:
    return default_cache_root() / "client-ceiling.json"


def save_ceiling(ceiling: ClientCeiling, path: Path) -> None:
    write_atomically(path, msgspec.json.format(msgspec.json.encode(ceiling), indent=2) + b"\n")


def load_ceiling(path: Path, *, environment: Environment) -> ClientCeiling | None:
    """None where none was measured on this machine in this environment, or by another version of this check.

    Raises LoadTestError for a file that cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LoadTestError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        ceiling = msgspec.json.decode(content, type=ClientCeiling)
    except msgspec.MsgspecError:
        return None  # of another version: its figures mean something else
    fits = ceiling.version == CEILING_VERSION and _machine(ceiling.environment) == _machine(environment)
    return ceiling if fits else None


def _machine(environment: Environment) -> tuple[str, int, str, str]:
    """What a ceiling depends on; memory and GPUs may change beside it."""
    return environment.cpu, environment.num_cores, environment.python, environment.packages.get("uvloop", "")
