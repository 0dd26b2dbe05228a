"""Finds a routing policy by name: ours, or one that a distribution offers in the group `enginebay.routing`."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from random import Random
from types import ModuleType

import pluggy
from pydantic import BaseModel, ValidationError

from enginebay.config.diagnostics import as_one_error, describe
from enginebay.config.source import Source
from enginebay.errors import ConfigError, PluginError
from enginebay.gateway.routing.checked import CheckedPolicy
from enginebay.gateway.routing.policy import ENTRY_POINT_GROUP, RoutingHooks, RoutingPolicy, RoutingPolicySpec
from enginebay.hookspecs import PROJECT

BUILT_IN = ("least_loaded", "power_of_two", "round_robin", "consistent_hash", "prefix_aware")
"""Each is a module of this package with the same hook as a third party's, and is loaded only when it is asked for."""


def make_policy(name: str, options: Mapping[str, object], rng: Random) -> RoutingPolicy:
    """Raises ConfigError for a name that is unknown and for options that the policy does not take, PluginError for a
    plugin that is broken."""
    spec = find_policy(name)
    validated = _validated(spec, options)
    if spec.name in BUILT_IN:
        return spec.create(validated, rng)
    try:
        return CheckedPolicy(spec.create(validated, rng), spec.name)
    except Exception as error:
        raise PluginError(f"routing policy {spec.name!r} cannot be made: {error!r}") from error


def find_policy(name: str) -> RoutingPolicySpec:
    """Loads that one plugin alone."""
    wanted = _plain(name)
    found = _installed(wanted)
    if wanted in BUILT_IN:
        if found:
            raise PluginError(
                f"routing policy {wanted!r} is built in, and {found[0].value} claims its name: uninstall it"
            )
        return _spec(import_module(f"{__package__}.{wanted}"), wanted)
    if not found:
        raise _unknown(name)
    if len(found) > 1:
        values = ", ".join(sorted(entry_point.value for entry_point in found))
        raise PluginError(f"routing policy {wanted!r} is claimed by {values}: uninstall all but one")
    try:
        plugin = found[0].load()
    except (Exception, SystemExit) as error:
        raise PluginError(f"routing policy {wanted!r}: {found[0].value} cannot be imported: {error!r}") from error
    return _spec(plugin, wanted)


def policy_names() -> list[str]:
    """Every installed one, without importing any."""
    return sorted({*BUILT_IN, *(_plain(entry_point.name) for entry_point in entry_points(group=ENTRY_POINT_GROUP))})


def _installed(wanted: str) -> list[EntryPoint]:
    """One that is installed twice in the same place counts once."""
    found = {
        (entry_point.value, entry_point.dist.name if entry_point.dist is not None else ""): entry_point
        for entry_point in entry_points(group=ENTRY_POINT_GROUP)
        if _plain(entry_point.name) == wanted
    }
    return list(found.values())


def _spec(plugin: ModuleType | object, wanted: str) -> RoutingPolicySpec:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(RoutingHooks)
    try:
        manager.register(plugin, name=wanted)
        spec = manager.hook.enginebay_routing_policy()
    except Exception as error:
        raise PluginError(f"routing policy {wanted!r} is broken: {type(error).__name__}: {error}") from error
    if not isinstance(spec, RoutingPolicySpec):
        raise PluginError(
            f"routing policy {wanted!r} is broken: expected a function enginebay_routing_policy, marked with "
            f"@enginebay.hookimpl, that returns a RoutingPolicySpec; it gave {type(spec).__name__}"
        )
    if _plain(spec.name) != wanted:
        raise PluginError(f"routing policy {wanted!r} is broken: it offers {spec.name!r}")
    return spec


def _validated(spec: RoutingPolicySpec, options: Mapping[str, object]) -> BaseModel:
    try:
        return spec.options_model.model_validate(dict(options))
    except ValidationError as error:
        path = ("gateway", "routing", "options")
        problems = describe(error, model=spec.options_model, values=options, source=Source(None), path=path)
        raise as_one_error(problems) from error


def _unknown(name: str) -> ConfigError:
    names = policy_names()
    close = get_close_matches(_plain(name), names, n=1)
    return ConfigError(
        f"there is no routing policy called {name!r}",
        path="gateway.routing.policy",
        expected=f"one of {', '.join(names)}",
        suggestion=close[0] if close else None,
    )


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_")
