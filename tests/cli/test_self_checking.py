import json

from rich.console import Console

from enginebay.cli.bench.self_checking import self_check


def test_the_self_check_prints_its_figures_and_keeps_them_in_the_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ENGINEBAY_HOME", str(tmp_path))
    console = Console(record=True, width=120, quiet=False, file=(tmp_path / "printed").open("w"))
    assert self_check(console, seconds=0.2) == 0
    kept = json.loads((tmp_path / "client-ceiling.json").read_text())
    printed = console.export_text()
    assert f"{kept['requests_per_s']:,.0f}" in printed
    assert f"{kept['ttft_error_p99_s'] * 1000:.2f} ms" in printed
    assert str(tmp_path) in printed
    console.file.close()
