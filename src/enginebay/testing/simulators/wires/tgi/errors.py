"""TGI's refusals, and how they look outside and inside a stream."""

from __future__ import annotations

import msgspec

STATUSES = {
    "validation": 422,
    "overloaded": 429,
    "generation": 424,
    "incomplete_generation": 500,
    "template_error": 422,
    "tool_error": 422,
    "suffix not supported": 422,
    "batch size exceeded": 422,
    "healthcheck": 503,
}
_PREFIXES = {
    "validation": "Input validation error: ",
    "tool_error": "Tool error: ",
    "template_error": "Template error: ",
}


class Refusal(Exception):
    """Of a request that was understood."""

    def __init__(self, error_type: str, message: str) -> None:
        self.error_type = error_type
        self.message = _PREFIXES.get(error_type, "") + message
        super().__init__(self.message)

    @property
    def status(self) -> int:
        return STATUSES[self.error_type]

    def body(self) -> bytes:
        return msgspec.json.encode({"error": self.message, "error_type": self.error_type})

    def openai_body(self) -> bytes:
        """Inside a stream of an OpenAI route: 422 whatever it was."""
        return msgspec.json.encode({"error": {"message": self.message, "http_status_code": 422}})


class Unreadable(Exception):
    """Of a body that is no such request: plain text, from the web framework."""

    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message
        super().__init__(message)


def overloaded() -> Refusal:
    return Refusal("overloaded", "Model is overloaded")


def shard_failed(reason: str) -> Refusal:
    return Refusal("generation", f"Request failed during generation: Server error: {reason}")


def event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
