"""A Hugging Face directory to OpenVINO's own form, by `optimum-cli export openvino` in whatever environment has it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from enginebay.backends.launch.environment import inherited_environment
from enginebay.errors import ModelError
from enginebay.models.conversion import Conversion, converted_model, find_converted
from enginebay.models.conversion_tool import run_tool
from enginebay.models.progress import ProgressCallback, PullProgress

MODEL_FILE = "openvino_model.xml"
DEFAULT_CONVERT_VENV = ".venvs/openvino-convert"
_TARGET = "openvino"
_TOOLS = ("optimum-intel", "openvino", "openvino-tokenizers", "nncf", "transformers")
_BAR = re.compile(r"^(?P<what>[A-Z][\w ]+?):?\s+(?:━|╸|\d+%\|).*?(?P<done>\d+)/(?P<total>\d+)")
_PERCENT_BAR = re.compile(r"^(?P<what>[A-Z][\w ]+?)\s+[━╸╺ ]+\s*(?P<done>\d+)%")


@dataclass(frozen=True, slots=True)
class Converter:
    """An environment that has the tool."""

    executable: Path
    versions: dict[str, str]


def convert(
    source: Path,
    *,
    weight_format: str,
    progress: ProgressCallback,
    venvs: Iterable[str | None] = (),
    trust_remote_code: bool = False,
) -> Path:
    """The converted model of a Hugging Face directory, from the cache where it was made before.

    venvs: where the tool may be, looked at first. Raises ModelError, also where there is no tool.
    """
    converter = find_converter(venvs)
    conversion = Conversion(
        source=source,
        target=_TARGET,
        variant=weight_format,
        tools=converter.versions if converter is not None else {},
    )
    if converter is None:
        found = find_converted(conversion)
        if found is None:
            raise _no_converter(source)
        return found
    command = _command(converter, source, weight_format=weight_format, trust_remote_code=trust_remote_code)
    return converted_model(conversion, lambda directory: _run(command, directory, progress=progress), progress=progress)


def find_converter(venvs: Iterable[str | None]) -> Converter | None:
    """In these environments, then in ours, then where `install_openvino.py` puts it."""
    given = [Path(venv).expanduser().absolute() for venv in venvs if venv]
    beside = [venv.with_name(f"{venv.name}-convert") for venv in given]
    for venv in (*given, *beside, Path(sys.prefix), Path(DEFAULT_CONVERT_VENV).absolute()):
        executable = venv / "bin" / "optimum-cli"
        versions = _versions(venv)
        if executable.is_file() and "optimum-intel" in versions:
            return Converter(executable, versions)
    return None


def _versions(venv: Path) -> dict[str, str]:
    """From the files of the environment: asking its interpreter would take seconds at each start."""
    folders = [str(folder) for folder in venv.glob("lib/python3*/site-packages")]
    installed = {_plain(found.name): found.version for found in distributions(path=folders)}
    return {name: installed[name] for name in _TOOLS if name in installed}


def _plain(distribution: str) -> str:
    return distribution.lower().replace("_", "-")


def _command(converter: Converter, source: Path, *, weight_format: str, trust_remote_code: bool) -> list[str]:
    """Without the folder that it fills, which comes last."""
    return [
        str(converter.executable),
        *("export", "openvino", "--model", str(source), "--task", "text-generation-with-past"),
        *("--weight-format", weight_format),
        *(("--trust-remote-code",) if trust_remote_code else ()),
    ]


def _run(command: list[str], directory: Path, *, progress: ProgressCallback) -> None:
    phase = _Phase(progress)
    environment = {**inherited_environment(os.environ), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    run_tool([*command, str(directory)], environment=environment, on_line=phase.read, on_wait=phase.tell)
    if not (directory / MODEL_FILE).is_file():
        raise ModelError(f"{' '.join(command)} succeeded, but wrote no {MODEL_FILE}")


class _Phase:
    """What the tool is doing, as its lines tell: it says nothing itself of tracing and writing."""

    def __init__(self, progress: ProgressCallback) -> None:
        self._progress = progress
        self._now = PullProgress("starting optimum-cli")

    def tell(self) -> None:
        self._progress(self._now)

    def read(self, line: str) -> None:
        if "TracerWarning" in line:
            self._now = PullProgress("tracing the model and writing it for OpenVINO")
        elif match := _BAR.search(line):
            self._now = PullProgress(match["what"].lower(), int(match["done"]), int(match["total"]), "tensors")
        elif match := _PERCENT_BAR.search(line):
            self._now = PullProgress(match["what"].lower(), int(match["done"]), 100, "files")
        else:
            return
        self.tell()


def _no_converter(source: Path) -> ModelError:
    return ModelError(
        f"{source} has to be converted for OpenVINO once, and no optimum-intel was found. Install it: "
        '`pip install "enginebay-openvino[convert]"` here, or into an environment of its own that '
        f"options.convert_venv names (or {DEFAULT_CONVERT_VENV}: python plugins/openvino/install_openvino.py)"
    )
