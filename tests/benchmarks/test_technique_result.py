"""One run of benchmarks/techniques.py after another: what the file keeps, and what the exit code says."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import techniques  # noqa: E402
from technique_tables import technique_block  # noqa: E402

OLD_STAMP = {
    "created_at": "2026-01-02T03:04:05+00:00",
    "revision": "0ld",
    "environment": {"cpu": "an older CPU", "packages": {"torch": "1.0"}},
}


def row(label: str, tokens_per_s: float, ttft_p50_s: float = 0.5) -> dict[str, object]:
    return {
        "label": label, "users": 8, "num_starts": 3, "is_valid": True, "simulated": False, "invalid_reasons": [],
        "output_tokens_per_s": {"median": tokens_per_s, "min": tokens_per_s, "max": tokens_per_s},
        "ttft_p50_s": ttft_p50_s, "ttft_p99_s": 1.5, "tpot_p50_s": 0.02, "cached_ratio": 0.0, "weight_bytes": 2**28,
        "kv_cache_bytes": 2**27, "resident_bytes": 2**30, "price_per_million_tokens": 0.0,
    }  # fmt: skip


def prefix_rows(speed_ratio: float) -> list[dict[str, object]]:
    return [row("no-prefix-cache", 10.0, 1.0), row("prefix-cache", 10.0 * speed_ratio, 0.1)]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the benchmark with rows by config in place of engines: its exit code, and the file it left."""

    def ran(arguments: list[str], **rows: list[dict[str, object]]) -> tuple[int, dict[str, object]]:
        out = tmp_path / "techniques.json"

        def measured(group: techniques.Group, num_starts: int, _: object) -> dict[str, object]:
            found = rows.get(group.config.replace("-", "_"), [])
            return {"workload": "some", "rows": found, "failures": [] if found else [{"label": "x", "error": "gone"}]}

        monkeypatch.setattr(techniques, "measured", measured)
        monkeypatch.setattr(sys, "argv", ["techniques.py", "--out", str(out), *arguments])
        status = techniques.main()
        return status, json.loads(out.read_text()) if status != 2 else {}

    return ran


def written_before(tmp_path: Path, *, is_quick: bool = False) -> Path:
    """By a run that put its stamp on the file alone."""
    path = tmp_path / "techniques.json"
    groups = {
        name: {"workload": "some", "rows": rows, "failures": []}
        for name, rows in {"policies": [row("naive", 100.0)], "prefix_cache": prefix_rows(1.0)}.items()
    }
    path.write_text(json.dumps({**OLD_STAMP, "is_quick": is_quick, "price_per_hour": 1.0, "groups": groups}))
    return path


def test_groups_that_are_not_named_stay_with_the_stamp_of_their_own_run(run, tmp_path: Path) -> None:
    written_before(tmp_path)
    status, result = run(["--groups", "prefix_cache", "--price-per-hour", "0.36"], prefix_cache=prefix_rows(5.0))
    kept, anew = result["groups"]["policies"], result["groups"]["prefix_cache"]
    assert status == 0
    assert {key: kept[key] for key in OLD_STAMP} == OLD_STAMP
    assert anew["created_at"] == result["created_at"] > kept["created_at"]
    assert anew["rows"][1]["output_tokens_per_s"]["median"] == 50.0
    assert kept["rows"][0]["price_per_million_tokens"] == pytest.approx(1.0)


def test_a_stamp_outlives_a_second_run_of_another_group(run, tmp_path: Path) -> None:
    written_before(tmp_path)
    run(["--groups", "prefix_cache"], prefix_cache=prefix_rows(5.0))
    _, result = run(["--groups", "precision"], precision=[row("bfloat16", 1.0)])
    assert list(result["groups"]) == ["policies", "prefix_cache", "precision"]
    assert result["groups"]["policies"]["revision"] == "0ld"
    assert result["groups"]["prefix_cache"]["environment"] == result["environment"]


def test_the_page_says_of_a_group_that_was_kept_where_and_when_it_was_measured(run, tmp_path: Path) -> None:
    written_before(tmp_path)
    _, result = run(["--groups", "prefix_cache"], prefix_cache=prefix_rows(5.0))
    assert "measured 2026-01-02 03:04 on an older CPU, torch 1.0, at commit 0ld." in technique_block("policies", result)
    assert "In a run of its own" not in technique_block("prefix_cache", result)


def test_a_smoke_test_goes_neither_beside_measurements_nor_over_them(
    run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = written_before(tmp_path).read_text()
    for arguments in (["--quick"], ["--quick", "--groups", "prefix_cache"]):
        status, _ = run(arguments, prefix_cache=prefix_rows(5.0))
        assert status == 2
        assert "smoke tests do not go beside them or over them" in capsys.readouterr().err
    assert (tmp_path / "techniques.json").read_text() == before


def test_a_whole_measurement_takes_the_place_of_a_smoke_test_but_a_part_of_one_does_not(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_before(tmp_path, is_quick=True)
    assert run(["--groups", "prefix_cache"], prefix_cache=prefix_rows(5.0))[0] == 2
    monkeypatch.setattr(techniques, "speculated", lambda is_quick: {"rows": [], "failures": []})
    rows = {group.config.replace("-", "_"): [row("x", 1.0)] for group in techniques.GROUPS.values()}
    _, result = run([], **rows)
    assert not result["is_quick"]
    assert {group["created_at"] for group in result["groups"].values()} == {result["created_at"]}


@pytest.mark.parametrize("content", ["{", "[]", '{"rows": []}'])
def test_a_file_that_is_no_result_is_not_written_over(run, tmp_path: Path, content: str) -> None:
    path = tmp_path / "techniques.json"
    path.write_text(content)
    assert run(["--groups", "prefix_cache"], prefix_cache=prefix_rows(5.0))[0] == 2
    assert path.read_text() == content


def test_what_cannot_be_read_is_told_before_anything_is_measured(run, tmp_path: Path, capsys) -> None:
    (tmp_path / "techniques.json").mkdir()
    assert run(["--groups", "prefix_cache"], prefix_cache=prefix_rows(5.0))[0] == 2
    assert "techniques.json is no result to keep groups of" in capsys.readouterr().err


@pytest.mark.parametrize(("speed_ratio", "status", "word"), [(2.5, 0, "met"), (2.49, 1, "missed")])
def test_a_missed_bar_is_named_and_is_the_exit_code_and_the_result_is_kept(
    run, capsys: pytest.CaptureFixture[str], speed_ratio: float, status: int, word: str
) -> None:
    found, result = run(["--groups", "prefix_cache"], prefix_cache=prefix_rows(speed_ratio))
    assert found == status
    line = f"prefix_cache: at least 2.5 times the output tokens per second: {word}: {speed_ratio:.2f}x those without"
    assert line in capsys.readouterr().out
    assert result["groups"]["prefix_cache"]["rows"]


def test_an_engine_that_failed_and_a_bar_without_a_figure_are_another_exit_code(run) -> None:
    assert run(["--groups", "batch_size"])[0] == 3
    invalid = [found | {"is_valid": False} for found in prefix_rows(5.0)]
    assert run(["--groups", "prefix_cache"], prefix_cache=invalid)[0] == 3


def test_a_smoke_test_and_claims_of_the_lesson_are_held_to_no_bar(run, tmp_path: Path) -> None:
    assert run(["--quick", "--groups", "prefix_cache"], prefix_cache=prefix_rows(1.0))[0] == 0
    (tmp_path / "techniques.json").unlink()
    assert run(["--groups", "policies"], policies=[row("naive", 10.0), row("static", 10.0)])[0] == 0
