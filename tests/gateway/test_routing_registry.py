"""Policies are found by name, a third party's by its entry point."""

import asyncio
import sys
from importlib.metadata import EntryPoint
from random import Random
from types import ModuleType, SimpleNamespace

import pytest
from pool_of_fakes import a_call, a_pool, a_request, going_on, text_of

import enginebay
from enginebay.errors import ConfigError, PluginError
from enginebay.gateway.routing.checked import CheckedPolicy
from enginebay.gateway.routing.options import PolicyOptions
from enginebay.gateway.routing.policy import RoutingPolicy, RoutingPolicySpec
from enginebay.gateway.routing.registry import BUILT_IN, find_policy, make_policy, policy_names

released: list[str] = []


class Last(RoutingPolicy):
    """The last candidate, always."""

    def __init__(self, options, rng):
        released.clear()

    def choose(self, call, request, candidates):
        return candidates[-1]

    def released(self, replica):
        released.append(replica.name)


class LastOptions(PolicyOptions):
    strictly: bool = True


@enginebay.hookimpl
def enginebay_routing_policy():
    return RoutingPolicySpec(name="last", options_model=LastOptions, create=Last)


def module_of(monkeypatch, name, **contents):
    """An importable module that holds these names; return its name."""
    module = ModuleType(name)
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)
    return name


def install(monkeypatch, *pairs):
    """(name, value) of each entry point, of one distribution each."""
    found = []
    for name, value in pairs:
        entry_point = EntryPoint(name=name, value=value, group="enginebay.routing")
        vars(entry_point).update(dist=SimpleNamespace(name=f"dist-of-{value}"))
        found.append(entry_point)
    monkeypatch.setattr(
        "enginebay.gateway.routing.registry.entry_points", lambda group: [e for e in found if e.group == group]
    )


def test_a_policy_of_a_third_party_is_found_by_its_entry_point_and_routes(monkeypatch):
    module = module_of(monkeypatch, "third_party_policy", enginebay_routing_policy=enginebay_routing_policy)
    install(monkeypatch, ("Last", module))
    chooser = make_policy("last", {"strictly": False}, Random(1))
    assert "last" in policy_names()

    async def main():
        fake = await a_pool(going_on, going_on, going_on, policy=chooser)
        for _ in range(5):
            call = a_call(a_request())
            await fake.ask(a_request(), call)
            assert [attempt.replica for attempt in call.attempts] == ["r2"]
        fake.demand_nothing_left()

    asyncio.run(main())
    assert released == ["r2"] * 5


def test_each_built_in_policy_is_offered_by_the_same_hook():
    for name in BUILT_IN:
        assert find_policy(name).name == name
        assert find_policy(name.upper().replace("_", "-")).name == name


def test_an_unknown_name_is_told_with_what_there_is(monkeypatch):
    install(monkeypatch, ("last", "anywhere"))
    with pytest.raises(ConfigError, match=r"no routing policy called 'least_load'.*last, least_loaded.*'least_loaded'"):
        find_policy("least_load")


def test_options_are_checked_by_the_policy_that_they_are_for():
    with pytest.raises(ConfigError, match=r"gateway\.routing\.options\.max_load_ratio"):
        make_policy("consistent_hash", {"max_load_ratio": 0.5}, Random(1))
    with pytest.raises(ConfigError, match=r"gateway\.routing\.options\.slack"):
        make_policy("least_loaded", {"slack": 1}, Random(1))


def test_broken_plugins_say_which_they_are(monkeypatch):
    empty = module_of(monkeypatch, "empty_policy")
    wrong = module_of(monkeypatch, "wrong_policy", enginebay_routing_policy=enginebay.hookimpl(_returns_a_word))
    renamed = module_of(monkeypatch, "renamed_policy", enginebay_routing_policy=enginebay_routing_policy)
    install(monkeypatch, ("gone", "no_such_module"), ("empty", empty), ("wrong", wrong), ("first", renamed))
    for name, problem in {
        "gone": "no_such_module cannot be imported",
        "empty": "gave NoneType",
        "wrong": "gave str",
        "first": "it offers 'last'",
    }.items():
        with pytest.raises(PluginError, match=problem):
            find_policy(name)


def _returns_a_word():
    return "a word"


def test_two_that_claim_one_name_are_both_named(monkeypatch):
    install(monkeypatch, ("last", "one"), ("last", "other"), ("round_robin", "third"))
    with pytest.raises(PluginError, match="claimed by one, other"):
        find_policy("last")
    with pytest.raises(PluginError, match="'round_robin' is built in, and third claims its name"):
        find_policy("round_robin")


class Broken(RoutingPolicy):
    """choose: what it does; released: always wrong."""

    def __init__(self, choose):
        self._choose = choose

    def choose(self, call, request, candidates):
        return self._choose(candidates)

    def released(self, replica):
        raise KeyError(replica.name)


@pytest.mark.parametrize(
    ("choose", "problem"),
    [
        (lambda candidates: 1 / 0, "routing policy 'broken' failed: ZeroDivisionError"),
        (lambda candidates: None, "chose None, which is none of r0, r1"),
        (lambda candidates: "r0", "chose 'r0', which is none of r0, r1"),
    ],
)
def test_a_policy_that_fails_or_chooses_nonsense_is_named_and_leaves_nothing(choose, problem):
    async def main():
        fake = await a_pool(going_on, going_on, policy=CheckedPolicy(Broken(choose), "broken"))
        with pytest.raises(PluginError, match=problem):
            await fake.ask(a_request())
        fake.demand_nothing_left()

    asyncio.run(main())


def test_a_policy_that_fails_when_a_request_has_ended_takes_no_answer_and_no_slot(caplog):
    async def main():
        policy = CheckedPolicy(Broken(lambda candidates: candidates[0]), "broken")
        fake = await a_pool(going_on, going_on, policy=policy)
        assert text_of(await fake.ask(a_request())) == " t0 t1 t2 t3"
        fake.demand_nothing_left()

    asyncio.run(main())
    assert "routing policy 'broken' failed when r0 was released" in caplog.text
