"""One portable setting compiled for one engine, and the plan that a table of rules makes of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from enginebay.backend import LaunchPlan, SettingOutcome, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledSetting:
    """`refused` says why there is nothing of it."""

    arguments: tuple[str, ...] = ()
    becomes: str = ""
    why: str = ""
    is_exact: bool = True
    refused: str = ""

    def outcome(self, setting: str, value: object) -> SettingOutcome:
        if self.refused:
            return SettingOutcome(setting, value, "unsupported", why=self.refused)
        outcome: Literal["mapped", "approximated"] = "mapped" if self.is_exact else "approximated"
        return SettingOutcome(setting, value, outcome, becomes=self.becomes or " ".join(self.arguments), why=self.why)


Rule = Callable[[object, Settings], CompiledSetting]
"""(value, all settings that were given): some depend on each other."""


def compiled_by(rules: Mapping[str, Rule], settings: Settings, *, notes: tuple[str, ...] = ()) -> LaunchPlan:
    """One outcome for each setting, and the arguments of all of them, in the order in which they were given."""
    compiled = {name: rules[name](value, settings) for name, value in settings.items()}
    return LaunchPlan(
        outcomes=tuple(compiled[name].outcome(name, value) for name, value in settings.items()),
        arguments=tuple(argument for setting in compiled.values() for argument in setting.arguments),
        notes=notes,
    )
