"""The launch flags that a simulator takes: an engine's real ones, refused in the engine's own words.

FLAGS = FlagTable(
    flags=(Flag("--max-num-seqs", type=int), Flag("--dtype", choices=("auto", "float16"), default="auto")),
    positional="model",
    wording=argparse_wording("vllm serve"),
)
FLAGS.parse(["some/model", "--max-num-seqs", "4"])    # {"model": "some/model", "max_num_seqs": 4, "dtype": "auto"}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from enginebay.errors import ConfigError

Values = Mapping[str, object]
"""By the flag's name without dashes in front and with `_` inside: `max_num_seqs`. Every flag of the table is there."""
Problem = Literal["unknown", "value", "choice", "missing"]
Wording = Callable[[Problem, str, str, Sequence[str]], str]
"""(problem, flag, value, choices) -> what the engine prints to stderr."""


def number_with_suffix(text: str) -> int:
    """`4096`, `4k` (4000) or `4K` (4096), as vLLM reads lengths."""
    factors = {"k": 1000, "m": 1000**2, "g": 1000**3, "K": 1024, "M": 1024**2, "G": 1024**3}
    return int(float(text[:-1]) * factors[text[-1]]) if text[-1:] in factors else int(text)


def json_value(text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error


def boolean(text: str) -> bool:
    """Of a flag that takes `true` or `false` as its value."""
    if text.lower() not in ("true", "false", "1", "0"):
        raise ValueError(text)
    return text.lower() in ("true", "1")


@dataclass(frozen=True, slots=True)
class Flag:
    name: str
    """With its dashes: `--max-num-seqs`."""
    type: Callable[[str], object] = str
    """Raises ValueError for what is none."""
    default: object = None
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    is_switch: bool = field(default=False, kw_only=True)
    """Takes no value: true when given."""
    negatives: tuple[str, ...] = field(default=(), kw_only=True)
    """Of a switch: the flags that make it false."""
    takes_many: bool = field(default=False, kw_only=True)
    """Takes every value up to the next flag, as a list."""
    env: str | None = field(default=None, kw_only=True)
    """The environment variable that stands for it where the flag is not given."""

    @property
    def key(self) -> str:
        return self.name.lstrip("-").replace("-", "_")


def switch(name: str, *, default: object = False) -> Flag:
    """`--name`, true when given, and its opposite `--no-name`, as Python's argparse makes them."""
    return Flag(name, default=default, is_switch=True, negatives=(f"--no-{name.removeprefix('--')}",))


@dataclass(frozen=True, slots=True, kw_only=True)
class FlagTable:
    flags: tuple[Flag, ...]
    wording: Wording
    positional: str | None = None
    """The key of the one argument without a flag."""

    def parse(self, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Values:
        """Raises ConfigError; its `problem` is what the engine would print."""
        values = {flag.key: self._default(flag, environment or {}) for flag in self.flags}
        if self.positional is not None:
            values[self.positional] = None
        rest = list(arguments)
        while rest:
            self._take(rest, values)
        return values

    def _default(self, flag: Flag, environment: Mapping[str, str]) -> object:
        text = environment.get(flag.env) if flag.env is not None else None
        if text is None:
            return flag.default
        value = boolean(text) if flag.is_switch else self._value(flag, text)
        return [value] if flag.takes_many else value

    def _take(self, rest: list[str], values: dict[str, object]) -> None:
        argument = rest.pop(0)
        if not argument.startswith("-"):
            if self.positional is None or values[self.positional] is not None:
                raise self._refusal("unknown", argument)
            values[self.positional] = argument
            return
        name, has_value, value = argument.partition("=")
        flag = self._find(name)
        if flag.is_switch:
            values[flag.key] = name not in flag.negatives
        elif has_value:
            values[flag.key] = [self._value(flag, value)] if flag.takes_many else self._value(flag, value)
        else:
            values[flag.key] = self._following(flag, rest)

    def _find(self, name: str) -> Flag:
        for flag in self.flags:
            if name == flag.name or name in flag.aliases or name in flag.negatives:
                return flag
        raise self._refusal("unknown", name)

    def _following(self, flag: Flag, rest: list[str]) -> object:
        if not rest or rest[0].startswith("--"):
            raise self._refusal("missing", flag.name)
        if not flag.takes_many:
            return self._value(flag, rest.pop(0))
        values: list[object] = []
        while rest and not rest[0].startswith("--"):
            values.append(self._value(flag, rest.pop(0)))
        return values

    def _value(self, flag: Flag, text: str) -> object:
        if flag.choices and text not in flag.choices:
            raise self._refusal("choice", flag.name, text, flag.choices)
        try:
            return flag.type(text)
        except ValueError as error:
            raise self._refusal("value", flag.name, text) from error

    def _refusal(self, problem: Problem, flag: str, value: str = "", choices: Sequence[str] = ()) -> ConfigError:
        return ConfigError(self.wording(problem, flag, value, choices))


# ---------------------------------------------------------------- the words of command-line parsers


def argparse_wording(program: str) -> Wording:
    """Python's argparse: vLLM, SGLang."""

    def word(problem: Problem, flag: str, value: str, choices: Sequence[str]) -> str:
        quoted = ", ".join(map(repr, choices))
        what = {
            "unknown": f"unrecognized arguments: {flag}",
            "value": f"argument {flag}: invalid value: {value!r}",
            "choice": f"argument {flag}: invalid choice: {value!r} (choose from {quoted})",
            "missing": f"argument {flag}: expected one argument",
        }[problem]
        return f"usage: {program} [options]\n{program}: error: {what}"

    return word


def clap_wording(program: str) -> Wording:
    """Rust's clap: TGI."""

    def word(problem: Problem, flag: str, value: str, choices: Sequence[str]) -> str:
        what = {
            "unknown": f"unexpected argument '{flag}' found",
            "value": f"invalid value '{value}' for '{flag}': invalid digit found in string",
            "choice": f"invalid value '{value}' for '{flag}'\n  [possible values: {', '.join(choices)}]",
            "missing": f"a value is required for '{flag}' but none was supplied",
        }[problem]
        return f"error: {what}\n\nUsage: {program} [OPTIONS]\n\nFor more information, try '--help'."

    return word


def click_wording(program: str) -> Wording:
    """Python's click: TensorRT-LLM."""

    def word(problem: Problem, flag: str, value: str, choices: Sequence[str]) -> str:
        what = {
            "unknown": f"No such option: {flag}",
            "value": f"Invalid value for '{flag}': '{value}' is not valid.",
            "choice": f"Invalid value for '{flag}': '{value}' is not one of {', '.join(map(repr, choices))}.",
            "missing": f"Option '{flag}' requires an argument.",
        }[problem]
        return f"Usage: {program} [OPTIONS] MODEL\nTry '{program} --help' for help.\n\nError: {what}"

    return word
