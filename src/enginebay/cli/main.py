"""The commands, and what becomes of their errors.

A command's module is imported when the command is called, so that `enginebay --help` stays quick.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter, UnknownCommandError

import enginebay
from enginebay.cli.bench.help_text import COMPARE_HELP, HELP
from enginebay.errors import (
    ConfigError,
    EngineBayError,
    LoadTestError,
    ModelNotFound,
    NotComparable,
    PluginError,
    RequestError,
    UnsupportedModel,
)

FAILED, USAGE, NO_VERDICT, INTERRUPTED, BROKEN_PIPE = 1, 2, 3, 130, 141

_COMMANDS = {
    "init": ("init:init", "Write a commented config for what this machine has."),
    "serve": ("serve:serve", "Serve a backend through the OpenAI API."),
    "generate": ("generate:generate", "Generate one answer and stream it to the terminal."),
    "bench": ("bench.command:bench", HELP),
    "compare": ("compare:compare", COMPARE_HELP),
    "plan": ("plan:plan", "Show what each setting becomes for a backend, and the command that would start it."),
    "backends": ("backends:backends", "List the installed backends."),
    "costs": ("costs:show_costs", "Show what calls through the gateway used and cost."),
    "simulate": ("simulate:simulate", "Play an engine without one: its protocol, metrics, flags and faults."),
    "doctor": ("doctor:doctor", "Look at this machine and say what is missing."),
}
_GROUPS = {
    "models": (
        "Fetch, list and convert models.",
        {
            "pull": ("models:pull", "Fetch a model, so that it can be used offline."),
            "list": ("models:list_models", "List the models in the cache."),
            "convert": ("models:convert", "Bring a model into the form that one engine reads."),
        },
    ),
    "config": (
        "Check configs.",
        {
            "validate": ("config_validate:validate", "Check config files, their backends and options included."),
            "schema": ("config_schema:schema", "Print the JSON Schema of configs, for editors."),
        },
    ),
    "keys": (
        "Make and end the API keys of a gateway.",
        {
            "create": ("keys:create", "Make a key, and print it once."),
            "list": ("keys:list_keys", "List the keys, without their secrets."),
            "revoke": ("keys:revoke", "End a key for good."),
            "rotate": ("keys:rotate", "Give a key a new secret; the old one ends after an overlap."),
        },
    ),
}
_EXTRAS = {
    "alembic": "ledger", "gguf": "models", "huggingface_hub": "models", "jinja2": "engine", "matplotlib": "picture",
    "openai": "openai", "plotly": "report", "psycopg": "postgres", "safetensors": "models", "sqlalchemy": "ledger",
    "structlog": "gateway", "tokenizers": "models", "torch": "engine", "uvicorn": "gateway",
    "watchfiles": "gateway", "limits": "limits", "redis": "limits",
}  # fmt: skip


def build_app() -> App:
    app = App(
        name="enginebay",
        help="Swap the engine that serves your language model with one line of YAML, and prove which one is better.",
        help_epilogue="Exit codes: 0 fine; 1 a gate or the work failed; 2 usage, config, a file or model that cannot "
        "be used, or something that is not installed; 3 invalid, or no verdict; 130 interrupted; 141 the reader of "
        "the output went away.",
        version=enginebay.__version__,
        help_format="plaintext",
        suppress_keyboard_interrupt=False,
        result_action="return_value",
    )
    _register(app, _COMMANDS)
    for name, (help_text, commands) in _GROUPS.items():
        group = App(name=name, help=help_text)
        _register(group, commands)
        app.command(group)
    return app


def _register(app: App, commands: dict[str, tuple[str, str]]) -> None:
    for name, (target, help_text) in commands.items():
        app.command(f"enginebay.cli.{target}", name=name, help=help_text)


def run(tokens: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    invocation = _Invocation()
    try:
        result = invocation.call(tokens)
        sys.stdout.flush()  # a broken pipe shows here, and not at exit where nobody catches it
    except _EXPLAINED as error:
        ending = _ending(error)
        if ending is None:
            raise
        if invocation.is_verbose:
            traceback.print_exception(error)
        elif ending.message:
            print(f"error: {ending.message}", file=sys.stderr)
        return ending.exit_code
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


class _Invocation:
    """The app with the one option that every command has."""

    def __init__(self) -> None:
        self.is_verbose = False
        self._app = build_app()
        self._app.meta.default(self._launch)
        self._app.meta.suppress_keyboard_interrupt = False  # so that Ctrl-C comes to `run`

    def call(self, tokens: Sequence[str]) -> object:
        return self._app.meta(list(tokens), exit_on_error=False, print_error=False, result_action="return_value")

    def _launch(
        self,
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        verbose: Annotated[bool, Parameter(help="Show the traceback of an error.", negative="")] = False,
    ) -> object:
        self.is_verbose = verbose
        return self._app(tokens, exit_on_error=False, print_error=False, result_action="return_value")


# ---------------------------------------------------------------- errors

_EXPLAINED = (CycloptsError, EngineBayError, ImportError, KeyboardInterrupt, BrokenPipeError, SystemExit)


_EXIT_CODES: tuple[tuple[type[EngineBayError], int], ...] = (
    (NotComparable, NO_VERDICT),
    (ConfigError, USAGE),
    (PluginError, USAGE),
    (RequestError, USAGE),
    (ModelNotFound, USAGE),
    (UnsupportedModel, USAGE),
    (LoadTestError, USAGE),
    (EngineBayError, FAILED),
)
"""The first that fits."""


@dataclass(frozen=True, slots=True)
class _Ending:
    exit_code: int
    message: str = ""


def _ending(error: BaseException) -> _Ending | None:
    """How the process ends after this error; None for one that is nobody's fault but ours."""
    match error:
        case CycloptsError():
            return _Ending(USAGE, _usage_message(error))
        case EngineBayError():
            code = next(code for kind, code in _EXIT_CODES if isinstance(error, kind))
            return _Ending(code, str(error))
        case ImportError() if package := _missing_extra(error):
            return _Ending(USAGE, f"{package} is not installed: pip install 'enginebay[{_EXTRAS[package]}]'")
        case KeyboardInterrupt():
            return _Ending(INTERRUPTED)
        case BrokenPipeError():
            # whoever read us has gone; nothing may be flushed into the pipe at exit either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _Ending(BROKEN_PIPE)
        case SystemExit(__context__=BrokenPipeError()):
            return _Ending(BROKEN_PIPE)  # rich has seen it first
        case _:
            return None


def _usage_message(error: CycloptsError) -> str:
    if not isinstance(error, UnknownCommandError):
        return f"{str(error).strip()} (see --help)"
    # cyclopts' own message would import every command to word its suggestion
    unknown = (error.unused_tokens or [""])[0]
    group = error.command_chain[0] if error.command_chain else ""
    known = _GROUPS[group][1] if group in _GROUPS else {**_COMMANDS, **dict.fromkeys(_GROUPS)}
    close = get_close_matches(unknown, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(sorted(known))}."
    return f"there is no command {' '.join(filter(None, (group, unknown)))!r}.{hint}"


def _missing_extra(error: ImportError) -> str | None:
    """The package of an extra that this failed for; cyclopts wraps what a command's module raises."""
    cause = error.__cause__ if isinstance(error.__cause__, ImportError) else error
    package = (cause.name or "").partition(".")[0]
    return package if package in _EXTRAS else None
