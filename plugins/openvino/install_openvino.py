"""Install OpenVINO GenAI, and the tool that converts models for it, each into an environment of its own.

    python plugins/openvino/install_openvino.py .venvs/openvino

makes `.venvs/openvino` (0.3 GB: `venv:` of an entry) and `.venvs/openvino-convert` (PyTorch and optimum-intel, only
needed to convert a model, once; 2 GB where a build of PyTorch for CPUs can be had). An environment that is there
already, with the wanted versions, is left alone.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

ENGINE = ("openvino-genai==2026.4.1.0", "msgspec>=0.19")
CONVERTER = ("optimum-intel==2.2.0", "nncf>=3.4,<4", "openvino==2026.4.1", "openvino-tokenizers==2026.4.1.0")
CPU_TORCH = "torch==2.13.0+cpu"
NOT_NEEDED = ("torchvision",)
"""Required by optimum-intel, not used for a language model; every build of it pins a PyTorch with CUDA."""
DONE = "enginebay-installed.txt"
"""In an environment that is complete: what was installed."""
_ASK_REQUIREMENTS = """
from importlib.metadata import requires
print("\\n".join(line for line in requires("optimum-intel") if "extra ==" not in line))
"""


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    directory = Path(sys.argv[1])
    install(directory, ENGINE, lambda pip: pip(*ENGINE))
    install(directory.with_name(f"{directory.name}-convert"), CONVERTER, install_converter)
    return 0


def install(directory: Path, packages: tuple[str, ...], how) -> None:
    wanted = "\n".join(packages) + "\n"
    done = directory / DONE
    if done.is_file() and done.read_text() == wanted:
        print(f"{directory}: {', '.join(packages)} are there")
        return
    venv.create(directory, with_pip=True, symlinks=True, clear=True)
    how(Pip(directory / "bin" / "python"))
    done.write_text(wanted)
    print(f"{directory}: installed {', '.join(packages)}")


class Pip:
    def __init__(self, python: Path) -> None:
        self.python = str(python)

    def __call__(self, *arguments: str, check: bool = True) -> bool:
        command = (self.python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *arguments)
        return subprocess.run(command, check=check).returncode == 0


def install_converter(pip: Pip) -> None:
    if not pip(CPU_TORCH, check=False):
        print(f"{CPU_TORCH} cannot be had here: the default build is installed instead")
        pip(*CONVERTER)
        return
    pip("--no-deps", CONVERTER[0])
    asked = subprocess.run((pip.python, "-c", _ASK_REQUIREMENTS), capture_output=True, text=True, check=True).stdout
    requirements = [line for line in asked.splitlines() if not line.startswith(NOT_NEEDED)]
    pip(CPU_TORCH, *requirements, *CONVERTER[1:])


if __name__ == "__main__":
    sys.exit(main())
