"""The conversion as a step of the models, with a script in place of optimum-cli."""

from __future__ import annotations

import asyncio
import json
import sys
import textwrap
from pathlib import Path

import pytest

from enginebay.errors import ConfigError, ModelError
from enginebay.models.progress import PullProgress, ignore_progress
from enginebay.plugins import find_backend, get_backend
from enginebay_openvino import conversion
from enginebay_openvino.conversion import convert, find_converter

OPTIMUM_CLI = r"""
    import json, os, sys
    from pathlib import Path
    print("Loading weights:  50%|#####     | 136/272 [00:00<00:00, 300it/s]", end="\r", file=sys.stderr)
    print("cache_utils.py:131: TracerWarning: Converting a tensor", file=sys.stderr)
    print("Applying Weight Compression ━━━━━━━━ 100% • 0:00:01 • 0:00:00", file=sys.stderr)
    if "fails" in sys.argv[sys.argv.index("--model") + 1]:
        sys.exit("ValueError: the architecture is not known")
    directory = Path(sys.argv[-1])
    (directory / "openvino_model.xml").touch()
    (directory / "told.json").write_text(json.dumps({"arguments": sys.argv[1:-1], "environment": dict(os.environ)}))
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither this machine's cache nor its converters."""
    monkeypatch.setenv("ENGINEBAY_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "ours"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return _model(tmp_path / "model")


def _model(directory: Path) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").touch()
    return directory


@pytest.fixture
def convert_venv(tmp_path: Path) -> Path:
    venv = tmp_path / "converter"
    (venv / "bin").mkdir(parents=True)
    tool = venv / "bin" / "optimum-cli"
    tool.write_text(f"#!{sys.executable}\n{textwrap.dedent(OPTIMUM_CLI)}")
    tool.chmod(0o755)
    site_packages = venv / "lib" / "python3.11" / "site-packages"
    for name, version in (("optimum_intel", "2.2.0"), ("nncf", "3.4.0"), ("unrelated", "1")):
        information = site_packages / f"{name}-{version}.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return venv


def test_the_tool_is_run_once_and_tells_its_phases(source: Path, convert_venv: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "a secret")
    told: list[PullProgress] = []
    venvs = (str(convert_venv),)
    made = convert(source, weight_format="int8", progress=told.append, venvs=venvs)
    record = json.loads((made / "told.json").read_text())
    expected = ["export", "openvino", "--model", str(source), "--task", "text-generation-with-past"]
    assert record["arguments"] == [*expected, "--weight-format", "int8"]
    assert record["environment"]["HF_HUB_OFFLINE"] == "1"
    assert "HF_TOKEN" not in record["environment"]
    steps = {progress.step for progress in told}
    assert {"starting optimum-cli", "loading weights", "applying weight compression"} <= steps
    assert PullProgress("loading weights", 136, 272, "tensors") in told
    told.clear()
    assert convert(source, weight_format="int8", progress=told.append, venvs=venvs) == made
    assert told == []
    assert convert(source, weight_format="fp16", progress=ignore_progress, venvs=venvs) != made
    conversion_record = json.loads((made / "enginebay-conversion.json").read_text())
    assert conversion_record["tools"] == {"nncf": "3.4.0", "optimum-intel": "2.2.0"}


def test_a_conversion_that_fails_quotes_the_tool(tmp_path: Path, convert_venv: Path) -> None:
    source = _model(tmp_path / "fails")
    with pytest.raises(ModelError, match=r"(?s)exit code 1; its last lines:.*the architecture is not known"):
        convert(source, weight_format="fp16", progress=ignore_progress, venvs=(str(convert_venv),))
    assert list((tmp_path / "home" / "models").iterdir()) == []


def test_without_a_tool_what_was_converted_before_is_found_and_else_what_to_install_is_said(
    source: Path, convert_venv: Path
) -> None:
    with pytest.raises(ModelError, match=r'pip install "enginebay-openvino\[convert\]"'):
        convert(source, weight_format="fp16", progress=ignore_progress)
    made = convert(source, weight_format="fp16", progress=ignore_progress, venvs=(str(convert_venv),))
    assert convert(source, weight_format="fp16", progress=ignore_progress) == made


def test_the_tool_is_found_beside_the_engines_environment(tmp_path: Path, convert_venv: Path) -> None:
    engine = tmp_path / "engine"
    convert_venv.rename(tmp_path / "engine-convert")
    found = find_converter((None, str(engine)))
    assert found is not None
    assert found.executable == tmp_path / "engine-convert" / "bin" / "optimum-cli"
    assert find_converter(()) is None
    (tmp_path / "engine-convert").rename(tmp_path / ".venvs-openvino-convert")
    (tmp_path / ".venvs").mkdir()
    (tmp_path / ".venvs-openvino-convert").rename(tmp_path / conversion.DEFAULT_CONVERT_VENV)
    assert find_converter(()) is not None


def test_a_backend_without_a_converter_fails_to_start_with_the_remedy(source: Path) -> None:
    async def main() -> None:
        with pytest.raises(ModelError, match="has to be converted for OpenVINO once"):
            await get_backend("openvino", model=str(source)).start()

    asyncio.run(main())


def test_the_command_line_converts(source: Path, convert_venv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from enginebay.cli.models import convert as convert_command

    convert_command(str(source), to="openvino", weight_format="fp16", venv=str(convert_venv))
    printed = capsys.readouterr()
    assert (Path(printed.out.strip()) / "openvino_model.xml").is_file()
    assert "loading weights" in printed.err
    with pytest.raises(ConfigError, match="there is no weight format 'fp8'"):
        convert_command(str(source), to="openvino", weight_format="fp8", venv=str(convert_venv))
    with pytest.raises(ConfigError, match="reads a model as it is"):
        convert_command(str(source), to="reference")


def test_the_kind_says_that_it_converts() -> None:
    assert find_backend("openvino").convert is not None
    assert find_backend("reference").convert is None
