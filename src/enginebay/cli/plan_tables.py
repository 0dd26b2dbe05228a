"""Plans as tables: one backend with its reasons, or all of them side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.markup import escape
from rich.table import Table

from enginebay.backend import SettingOutcome
from enginebay.config.secret import MASK, Secret
from enginebay.configured import CheckedBackend

Redact = Callable[[str], str]

_COLOURS = {"mapped": "green", "approximated": "yellow", "unsupported": "red"}
_VALUE_WIDTH, _BACKEND_WIDTH = 10, 18
_BORDER = 3


def settings_table(checked: CheckedBackend, redact: Redact) -> Table:
    table = Table()
    for heading in ("setting", "value", "becomes", "outcome", "why"):
        table.add_column(heading, overflow="fold")
    for outcome in checked.plan.outcomes:
        cells = (outcome.setting, _value(outcome), outcome.becomes, _verdict(outcome, checked), outcome.why)
        table.add_row(*(escape(redact(cell)) for cell in cells), style=_COLOURS[outcome.outcome])
    return table


def side_by_side(found: Sequence[CheckedBackend], redact: Redact, *, width: int) -> Iterator[Table]:
    """A row for each setting and a column for each backend, in as many tables as the width needs."""
    settings = list(dict.fromkeys(outcome.setting for checked in found for outcome in checked.plan.outcomes))
    if not settings:
        return
    room = width - max(map(len, settings)) - _VALUE_WIDTH - 2 * _BORDER - 1
    num_columns = max(1, room // (_BACKEND_WIDTH + _BORDER))
    for start in range(0, len(found), num_columns):
        yield _comparison(settings, found[start : start + num_columns], redact)


def _comparison(settings: Sequence[str], found: Sequence[CheckedBackend], redact: Redact) -> Table:
    table = Table(show_lines=True)
    table.add_column("setting", no_wrap=True)
    table.add_column("value", overflow="fold", max_width=_VALUE_WIDTH)
    for checked in found:
        table.add_column(escape(checked.resolved.name), overflow="fold")
    for setting in settings:
        outcomes = [_outcome(checked, setting) for checked in found]
        values = list(dict.fromkeys(_value(outcome) for outcome in outcomes if outcome))
        cells = [
            _cell(outcome, checked, redact, is_value_shown=len(values) > 1)
            for outcome, checked in zip(outcomes, found, strict=True)
        ]
        table.add_row(setting, escape(redact(values[0] if len(values) == 1 else "differs")), *cells)
    return table


def _outcome(checked: CheckedBackend, setting: str) -> SettingOutcome | None:
    return next((outcome for outcome in checked.plan.outcomes if outcome.setting == setting), None)


def _cell(outcome: SettingOutcome | None, checked: CheckedBackend, redact: Redact, *, is_value_shown: bool) -> str:
    if outcome is None:
        return "not given"
    value = f"{_value(outcome)}: " if is_value_shown else ""
    text = value + (outcome.becomes or _verdict(outcome, checked))
    if outcome.becomes and outcome.outcome != "mapped":
        text += f" ({_verdict(outcome, checked)})"
    colour = _COLOURS[outcome.outcome]
    return f"[{colour}]{escape(redact(text))}[/{colour}]"


def _value(outcome: SettingOutcome) -> str:
    return MASK if isinstance(outcome.value, Secret) else str(outcome.value)


def _verdict(outcome: SettingOutcome, checked: CheckedBackend) -> str:
    is_allowed = outcome.setting in checked.resolved.entry.allow_unsupported
    return f"{outcome.outcome}, allowed" if outcome.outcome == "unsupported" and is_allowed else outcome.outcome
