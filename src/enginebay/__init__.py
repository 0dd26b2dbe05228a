"""EngineBay: one protocol, one YAML line, any engine that serves a language model.

The names below are loaded when they are first used, so that `import enginebay` stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enginebay.backend import Backend, BackendContext, BackendSpec, LaunchPlan, SettingOutcome
    from enginebay.errors import EngineBayError
    from enginebay.hookspecs import hookimpl
    from enginebay.llm import LLM, Completion, GenerationResult
    from enginebay.official_client import async_openai_client, openai_client
    from enginebay.plugins import get_backend, list_backends
    from enginebay.types import (
        BackendInfo,
        Capabilities,
        Chat,
        Feature,
        FinishReason,
        GenerationChunk,
        GenerationRequest,
        Message,
        SamplingParams,
        Text,
        TokenIds,
        Usage,
    )

__version__ = "0.1.0"

_HOMES = {
    "backend": ("Backend", "BackendContext", "BackendSpec", "LaunchPlan", "SettingOutcome"),
    "errors": ("EngineBayError",),
    "hookspecs": ("hookimpl",),
    "llm": ("LLM", "Completion", "GenerationResult"),
    "official_client": ("async_openai_client", "openai_client"),
    "plugins": ("get_backend", "list_backends"),
    "types": (
        "BackendInfo", "Capabilities", "Chat", "Feature", "FinishReason", "GenerationChunk", "GenerationRequest",
        "Message", "SamplingParams", "Text", "TokenIds", "Usage",
    ),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022 - grouped by home
    "Backend", "BackendContext", "BackendSpec", "LaunchPlan", "SettingOutcome",
    "EngineBayError", "hookimpl", "LLM", "Completion", "GenerationResult", "get_backend", "list_backends",
    "async_openai_client", "openai_client",
    "BackendInfo", "Capabilities", "Chat", "Feature", "FinishReason", "GenerationChunk", "GenerationRequest",
    "Message", "SamplingParams", "Text", "TokenIds", "Usage",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'enginebay' has no attribute {name!r}")
    return getattr(import_module(f"enginebay.{home}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
