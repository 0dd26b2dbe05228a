"""Typed errors across the process border: by class name, message and plain attributes."""

from __future__ import annotations

import msgspec

from enginebay import errors
from enginebay.errors import BackendError, EngineBayError, EngineStepFailed


class ErrorFrame(msgspec.Struct, frozen=True):
    name: str
    """Of a class in `enginebay.errors`."""
    message: str
    attributes: dict[str, object]


def error_frame(error: BaseException) -> ErrorFrame:
    """A foreign error counts as a failed step: the engine goes on, the request does not."""
    if not isinstance(error, EngineBayError):
        error = EngineStepFailed(f"{type(error).__name__}: {error}")
    plain = {name: value for name, value in vars(error).items() if _is_plain(value)}
    return ErrorFrame(_known_name(error), str(error), plain)


def rebuilt(frame: ErrorFrame, *, backend: str) -> EngineBayError:
    """backend: the name that the child doesn't know."""
    kind = getattr(errors, frame.name)
    error: EngineBayError = kind.__new__(kind, frame.message)  # its constructor would word the message again
    for name, value in frame.attributes.items():
        setattr(error, name, tuple(value) if isinstance(value, list) else value)
    if isinstance(error, BackendError) and error.backend is None:
        error.backend = backend
    return error


def _known_name(error: EngineBayError) -> str:
    """Of the nearest class that the other side has too: a plugin may derive its own."""
    for kind in type(error).__mro__:
        if getattr(errors, kind.__name__, None) is kind:
            return kind.__name__
    return EngineBayError.__name__


def _is_plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))
