"""The arithmetic of the benchmarks of techniques, on records and counters with known answers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from bench_runs import revision, spread  # noqa: E402
from speculation import Contender, copied_ratio, loops, row_of  # noqa: E402
from step_profile import shares_between  # noqa: E402
from technique_claims import MIN_PAIRS  # noqa: E402
from technique_plans import PROMPTS, prompts_of, shared_prefix_plan  # noqa: E402
from techniques import GROUPS, SPECULATION, priced  # noqa: E402
from techniques_plot import TITLES  # noqa: E402

from enginebay.config.loader import load_config  # noqa: E402
from enginebay.loadtest.plan import PlannedRequest  # noqa: E402
from enginebay.loadtest.records import Arrival, Record  # noqa: E402
from enginebay.types import BackendInfo, Capabilities, SamplingParams  # noqa: E402


class Words:
    """A token for each word, numbered as they come."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        return [self._numbers.setdefault(word, len(self._numbers)) for word in text.split()]

    encode_plain = encode

    def cut(self, text: str, num_tokens: int) -> str:
        return " ".join(text.split()[:num_tokens])

    def beginning(self, word: str) -> int:
        return self.encode(word)[0]

    def decode(self, token_ids: list[int]) -> str:
        words = {number: word for word, number in self._numbers.items()}
        return " ".join(words[token_id] for token_id in token_ids)


class Told:
    info = BackendInfo(
        kind="reference",
        name="r",
        model="m",
        capabilities=Capabilities(features=frozenset()),
        effective_settings={"weight_bytes": 7},
    )


def answered(text: str, duration_s: float) -> Record:
    num_tokens = len(text.split())
    return Record(
        index=0, scheduled_at=0, sent_at=0, ended_at=duration_s, num_planned_prompt_tokens=1, max_tokens=99, text=text,
        num_output_tokens=num_tokens, arrivals=[Arrival(duration_s / 2, 1), Arrival(duration_s, num_tokens - 1)],
    )  # fmt: skip


def contender(label: str, answers: dict[str, Record], **drafts: float) -> Contender:
    found = Contender(label, Told(), None)  # type: ignore[arg-type]
    found.answers["copy"] = answers
    found.drafts["copy"] = {"num_steps": 4, "num_drafted": 0, "num_accepted": 0, "draft_s": 0.0, **drafts}
    return found


def asked(*names: str) -> dict[str, PlannedRequest]:
    sampling = SamplingParams(max_tokens=99)
    return {name: PlannedRequest(index=0, text="a b c d e", num_prompt_tokens=5, sampling=sampling) for name in names}


LOOPING = " ".join(f"w{number % 13}" for number in range(40))


def test_a_result_names_the_commit_that_was_measured() -> None:
    """Of a checkout; an archive of the sources has none."""
    head = subprocess.run(("git", "-C", str(ROOT), "rev-parse", "HEAD"), capture_output=True, text=True, check=False)
    found = revision()
    if head.returncode != 0:
        assert found is None
    else:
        assert found is not None
        assert head.stdout.startswith(found.removesuffix("-dirty").rpartition("-g")[2])


def test_a_run_of_twelve_tokens_that_comes_again_is_a_loop() -> None:
    assert loops([*range(12), 99, *range(12)])
    assert loops([7] * 13)
    assert not loops([*range(12), 99, *range(11)])
    assert not loops([])


def test_the_copied_share_is_that_of_runs_of_four_tokens_that_stand_in_the_prompt() -> None:
    assert copied_ratio([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]) == 1
    assert copied_ratio([1, 2, 3, 4, 5], [1, 2, 3, 4, 9]) == 0.5
    assert copied_ratio([1, 2, 3], [1, 2]) == 0


def test_pairs_are_of_the_same_prompt_and_loops_are_left_out() -> None:
    base = contender("none", {"one": answered("a b c d e f", 3.0), "two": answered(LOOPING, 1.0)})
    mine = contender(
        "n", {"one": answered("a b c d e f", 1.5), "two": answered(LOOPING, 0.1)}, num_drafted=8, num_accepted=6
    )
    row = row_of("copy", mine, asked("one", "two"), base=base, tokenizer=Words())
    assert row["looping_prompts"] == ["two"]
    assert (row["num_pairs"], row["ratio"]["median"]) == (1, 2.0)
    assert row["output_tokens_per_s"]["median"] == 4.0
    assert (row["acceptance_ratio"], row["differing_prompts"]) == (0.75, [])


def test_an_answer_that_is_another_one_is_named() -> None:
    base, mine = (contender(label, {"one": answered(f"a b {label}", 1.0)}) for label in ("x", "y"))
    assert row_of("copy", mine, asked("one"), base=base, tokenizer=Words())["differing_prompts"] == ["one"]


def test_a_prompt_has_its_document_and_the_form_of_a_chat() -> None:
    found = prompts_of("copy", Words(), SamplingParams(max_tokens=1))
    documents = [json.loads(line)["document"] for line in (PROMPTS / "copy.jsonl").read_text().splitlines()]
    assert len(found) == len(documents) == len(set(documents))
    for planned, document in zip(found.values(), documents, strict=True):
        assert document in (planned.text or "")
        assert (planned.text or "").endswith("<|im_start|>assistant\n")


def test_there_are_more_prompts_than_pairs_are_wanted_as_some_answers_loop() -> None:
    for kind in ("copy", "free"):
        assert len(prompts_of(kind, Words(), SamplingParams(max_tokens=1))) >= MIN_PAIRS + 3


def test_all_prompts_of_a_shared_prefix_begin_alike_and_go_on_differently() -> None:
    plan = shared_prefix_plan(
        Words(), model="m", users=2, num_requests=4, num_prefix_tokens=20, num_suffix_tokens=6, num_output_tokens=3
    )
    (load,) = plan.loads
    prompts = [request.token_ids or () for request in (*load.warmup, *load.requests)]
    assert len({prompt[:20] for prompt in prompts}) == 1
    assert len({prompt[20:] for prompt in prompts}) == 5
    assert {len(prompt) for prompt in prompts} == {26}


def test_shares_of_a_step_add_up() -> None:
    names = ("steps", "step_seconds", "model_seconds", "sample_seconds", "busy_seconds")
    after = dict(zip((f"enginebay_engine_{name}_total" for name in names), (10, 2.0, 1.5, 0.3, 2.5), strict=True))
    shares = shares_between(dict.fromkeys(after, 0.0), after)
    assert shares["step_ms"] == pytest.approx(200)
    assert shares["model_ratio"] + shares["sample_ratio"] + shares["rest_ratio"] == pytest.approx(1)
    assert (shares["rest_ratio"], shares["between_ratio"]) == (pytest.approx(0.1), pytest.approx(0.2))


def test_the_price_of_a_million_tokens_is_that_of_the_hours_they_take() -> None:
    group = priced({"rows": [{"output_tokens_per_s": spread([100.0])}, {"output_tokens_per_s": None}]}, 0.36)
    assert [row["price_per_million_tokens"] for row in group["rows"]] == [pytest.approx(1.0), None]


def test_every_group_has_a_config_of_reference_engines_and_a_place_in_the_plot() -> None:
    assert {*GROUPS, SPECULATION} == set(TITLES)
    for group in GROUPS.values():
        assert {entry.kind for entry in load_config(group.path).backends.values()} == {"reference"}
