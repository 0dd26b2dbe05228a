"""What the formats have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedRequest:
    at: float
    """Seconds; where a trace's zero lies is its own affair."""
    num_input_tokens: int
    num_output_tokens: int
    hash_ids: tuple[int, ...] = ()
    """One for each block of the prompt, the last one perhaps not full; equal ids stand for equal beginnings up to the
    end of that block. Empty where the trace does not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    name: str
    requests: tuple[TracedRequest, ...]
    """In the order of their arrival, the first at 0."""
    block_tokens: int | None = None
    """Tokens of a block; None where there are no blocks."""
    num_left_out: int = 0
    """Requests of the file that are not here: those that failed, were too long, or lie outside what was asked for."""

    @property
    def offsets(self) -> list[float]:
        return [request.at for request in self.requests]

    @property
    def duration_s(self) -> float:
        return self.requests[-1].at if self.requests else 0.0

    def between(self, start_s: float, end_s: float | None) -> Trace:
        """What arrives from `start_s` on and before `end_s`, moved so that it begins at 0."""
        return self._with(
            [request for request in self.requests if request.at >= start_s and (end_s is None or request.at < end_s)]
        )

    def fitting(self, *, max_input_tokens: int | None, max_output_tokens: int | None) -> Trace:
        """Without the requests that are longer; the others keep their distances in time, the first is at 0."""

        def fits(request: TracedRequest) -> bool:
            return (max_input_tokens is None or request.num_input_tokens <= max_input_tokens) and (
                max_output_tokens is None or request.num_output_tokens <= max_output_tokens
            )

        return self._with([request for request in self.requests if fits(request)])

    def first(self, num_requests: int | None) -> Trace:
        return self if num_requests is None else self._with(self.requests[:num_requests])

    def _with(self, requests: Sequence[TracedRequest]) -> Trace:
        num_fewer = len(self.requests) - len(requests)
        return replace(self, requests=from_zero(requests), num_left_out=self.num_left_out + num_fewer)


def from_zero(requests: Sequence[TracedRequest]) -> tuple[TracedRequest, ...]:
    """By arrival, the first at 0. Files are not always in order: a request may be written when it has ended."""
    ordered = sorted(requests, key=lambda request: request.at)
    return tuple(_moved(ordered))


def _moved(ordered: Sequence[TracedRequest]) -> Iterator[TracedRequest]:
    for request in ordered:
        yield replace(request, at=request.at - ordered[0].at)
