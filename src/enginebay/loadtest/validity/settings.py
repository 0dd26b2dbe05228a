"""Whether the engine runs with the settings that it was asked to run with."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from enginebay.backends.launch.second_model import is_told_as
from enginebay.config.settings import EngineSettings
from enginebay.loadtest.result import InvalidReason
from enginebay.loadtest.validity.evidence import Evidence
from enginebay.loadtest.validity.reason import Finding, Reason

UNKNOWN = "unknown"
"""In place of a setting that was asked for and that the engine does not tell."""

SETTINGS_DIFFER = Reason(
    code="settings_differ",
    meaning="The engine says that it runs with another value of a setting than the configured one.",
    bound="every setting that both tell is equal; one that either leaves open, and one that the plan says it only "
    "approximates, is not compared",
    remedy="See `enginebay plan` for what the setting becomes; ask for a value that the engine takes.",
)


def effective_settings(configured: Mapping[str, object], told: Mapping[str, object]) -> dict[str, object]:
    """Each portable setting that was asked for, as the engine tells it or UNKNOWN; then what else it tells."""
    asked = [name for name, value in configured.items() if value is not None and name in EngineSettings.model_fields]
    return {**dict.fromkeys(asked, UNKNOWN), **told}


def settings_as_asked(evidence: Evidence) -> Iterator[Finding]:
    return settings_differ(
        evidence.configured_settings, evidence.told_settings, approximated=evidence.approximated_settings
    )


def settings_differ(
    configured: Mapping[str, object],
    effective: Mapping[str, object],
    *,
    approximated: Collection[str] = (),
) -> Iterator[InvalidReason]:
    """What both tell must be equal, or name the same model; `auto` leaves the choice to the engine, and so does None.

    approximated: settings that the plan turned into something near them; that the engine tells this is as planned.
    """
    told = {
        name: asked
        for name, asked in configured.items()
        if asked not in (None, "auto") and name not in approximated and effective.get(name, UNKNOWN) != UNKNOWN
    }
    others = [
        f"{name} is {effective[name]}, not {asked}"
        for name, asked in told.items()
        if effective[name] != asked and not is_told_as(name, asked, effective[name])
    ]
    if others:
        yield SETTINGS_DIFFER.found(f"the engine runs with other settings: {', '.join(others)}")
