from types import SimpleNamespace

import msgspec
import pytest
from loadtest_fakes import ENVIRONMENT, small_plan

from enginebay.errors import LoadTestError, NotComparable
from enginebay.loadtest.measurement import Subject
from enginebay.loadtest.metrics import ServiceLevels
from enginebay.loadtest.plan import save_plan
from enginebay.loadtest.replay import Replay, demand_same_subjects, origin_of, read_replay
from enginebay.loadtest.result import MeasuredSubject, Result, save_result

BEFORE = MeasuredSubject(label="a", backend="vllm", image="vllm:0.11", model="smollm2-135m", weights="ab" * 32)


@pytest.fixture
def folder(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("version: 1\n")
    plan = small_plan()
    save_plan(plan, tmp_path / "plan.json")
    save_result(
        Result(
            status="complete",
            created_at="2026-11-22T08:00:00+00:00",
            plan_sha256=plan.sha256,
            model="m",
            workload="w",
            seed=0,
            slo=ServiceLevels(),
            environment=ENVIRONMENT,
            runs=(),
            subjects=(BEFORE,),
            origin=origin_of(config),
        ),
        tmp_path / "result.json",
    )
    return tmp_path


def subject(**changes) -> Subject:
    values = {
        "label": "a", "kind": "vllm", "open": None, "image": "vllm:0.11", "model": "smollm2-135m",
        "weights": "ab" * 32,
    }  # fmt: skip
    return Subject(**(values | changes))


def test_a_result_is_read_back_with_its_plan_its_config_and_its_backends(folder) -> None:
    replay = read_replay(folder)
    assert (replay.plan.sha256, replay.config, replay.labels) == (
        small_plan().sha256, folder / "config.yaml", ["a"],
    )  # fmt: skip
    assert read_replay(folder / "result.json").plan == replay.plan
    demand_same_subjects(replay, [subject()])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"image": "vllm:0.12"}, "image of a was vllm:0.11, now vllm:0.12"),
        ({"weights": "cd" * 32}, "weights of a was abababababab, now cdcdcdcdcdcd"),
        ({"weights": None}, "now unknown"),
        ({"kind": "tgi"}, "kind of a was vllm, now tgi"),
        ({"label": "b"}, "a is not among the backends"),
    ],
)
def test_what_is_different_now_is_refused_by_name(folder, changes, told) -> None:
    with pytest.raises(NotComparable, match=told):
        demand_same_subjects(read_replay(folder), [subject(**changes)])


@pytest.mark.parametrize(
    ("settings", "told"), [({"dtype": "float32", "more": [1, 2]}, ""), ({"dtype": "bfloat16", "more": [1, 2]}, "dtype")]
)
def test_settings_are_compared_as_a_file_keeps_them(folder, settings, told) -> None:
    replay = read_replay(folder)
    run = SimpleNamespace(label="a", configured_settings=settings)
    measured = SimpleNamespace(subjects=replay.result.subjects, runs=[run])
    now = subject(configured_settings={"dtype": "float32", "more": (1, 2)})
    replay = Replay(result=measured, plan=replay.plan, config=replay.config)
    if not told:
        demand_same_subjects(replay, [now])
        return
    with pytest.raises(NotComparable, match="dtype of a was bfloat16, now float32"):
        demand_same_subjects(replay, [now])


def test_weights_that_nobody_knew_then_are_not_held_against_those_of_now(folder) -> None:
    before = read_replay(folder)
    unknown = msgspec.structs.replace(before.result, subjects=[msgspec.structs.replace(BEFORE, weights=None)])
    demand_same_subjects(Replay(result=unknown, plan=before.plan, config=before.config), [subject()])


def test_another_plan_beside_the_result_is_refused(folder) -> None:
    save_plan(small_plan(5), folder / "plan.json")
    with pytest.raises(NotComparable, match=r"plan\.json is not the plan"):
        read_replay(folder)


def test_a_config_that_changed_is_refused_and_one_that_moved_is_found_where_it_is_told(folder) -> None:
    moved = (folder / "config.yaml").rename(folder / "moved.yaml")
    with pytest.raises(LoadTestError, match="is not there"):
        read_replay(folder)
    assert read_replay(folder, config=moved).config == moved
    moved.write_text("version: 1 # other\n")
    with pytest.raises(NotComparable, match="has changed"):
        read_replay(folder, config=moved)


def test_a_result_of_a_bare_url_has_nothing_to_be_started_again(folder) -> None:
    content = msgspec.json.decode((folder / "result.json").read_bytes()) | {"origin": None}
    (folder / "result.json").write_bytes(msgspec.json.encode(content))
    with pytest.raises(LoadTestError, match="without a config"):
        read_replay(folder)
