"""Compare the engines on a GPU machine, unattended: plan, probe, measure, pack.

    python benchmarks/gpu_comparison.py                       # every config in configs/gpu that fits the machine's GPUs
    python benchmarks/gpu_comparison.py configs/gpu/qwen3-8b-1xh100.yaml --out out/gpu
    python benchmarks/gpu_comparison.py --dry-run             # the commands, nothing is run

It goes on after an engine that fails or takes longer than its step may, takes up an interrupted comparison where it
stopped (a step that succeeded is not repeated; all engines of a config are measured by one step, under one plan, and
are measured again together), and ends with one archive: results, reports, plans, probes, and what the machine was. Exit
code 1 when a step failed, or when there was nothing to do. Needs Docker with the NVIDIA toolkit, and HF_TOKEN for gated
weights. No GPU has run this script yet.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from enginebay.config.loader import load_config
from enginebay.config.models import Config
from enginebay.config.resolution import entry_names, resolve_backend

ROOT = Path(__file__).parents[1]
MIN_FREE_BYTES = 150 * 10**9
"""Images and weights of one model for four engines."""
PLAN_LIMIT_S = 600
STOP_S = 120
"""A command that is asked to end writes what it has and ends its engines; after that it is killed."""
QUERY_LIMIT_S = 60
TIMED_OUT = 124


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command; its standard output is kept beside its results."""

    name: str
    command: tuple[str, ...]
    output: Path
    makes: Path
    """Exists when the step is done: an interrupted comparison goes on from there."""
    limit_s: float

    @property
    def exit_code(self) -> Path:
        """A file beside the output: a step may have written its result and failed all the same."""
        return self.output.with_suffix(".exit")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    # A shell starts what is in the background without it, and so would start what we have to end.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    gpus = [] if options.dry_run else _gpus(options.nvidia_smi)
    steps = [step for config in _configs(options, num_gpus=len(gpus)) for step in _steps(config, options)]
    if options.dry_run:
        for step in steps:
            print(shlex.join(step.command))
        return 0
    if not steps:
        sys.exit("nothing to do: no config fits the GPUs of this machine")
    _demand_room(options.out)
    _describe_machine(options)
    failed = [step.name for step in steps if not _run(step)]
    archive = _pack(options.out)
    print(f"{len(steps) - len(failed)} of {len(steps)} steps done; results: {archive}")
    for name in failed:
        print(f"failed: {name}", file=sys.stderr)
    return 1 if failed else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", type=Path, help="else all of configs/gpu that the machine has GPUs for")
    parser.add_argument("--out", type=Path, default=Path("out/gpu"), help="folder of everything that is found")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    parser.add_argument("--enginebay", default=f"{sys.executable} -m enginebay.cli", help="how to run enginebay")
    parser.add_argument("--nvidia-smi", default="nvidia-smi", help="the program that tells the GPUs")
    parser.add_argument("--probe-limit-s", type=float, default=2 * 3600, help="most that probing one engine may take")
    parser.add_argument("--measure-limit-s", type=float, default=12 * 3600, help="most that measuring them may take")
    parser.add_argument("--docker", default="docker", help="the program that runs the images")
    return parser.parse_args(arguments)


def _gpus(nvidia_smi: str) -> list[str]:
    if shutil.which(nvidia_smi) is None:
        sys.exit(f"{nvidia_smi} is not here: this comparison needs a machine with NVIDIA GPUs (--dry-run does not)")
    command = (nvidia_smi, "--query-gpu=name", "--format=csv,noheader")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=QUERY_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        sys.exit(f"{nvidia_smi} does not tell the GPUs: {error}")
    if done.returncode != 0:
        sys.exit(f"{nvidia_smi} does not tell the GPUs (exit code {done.returncode}): {done.stdout}{done.stderr}")
    gpus = [line for line in done.stdout.splitlines() if line and line != "No devices were found"]
    return gpus or sys.exit(f"{nvidia_smi} finds no GPU on this machine")


def _configs(options: argparse.Namespace, *, num_gpus: int) -> Iterator[Path]:
    for path in options.configs or sorted((ROOT / "configs" / "gpu").glob("*.yaml")):
        needed = num_gpus_of(load_config(path))
        if options.dry_run or needed <= num_gpus:
            yield path
        elif options.configs:
            sys.exit(f"{path} needs {needed} GPUs, this machine has {num_gpus}")
        else:
            print(f"left out: {path.name} needs {needed} GPUs, this machine has {num_gpus}")


def num_gpus_of(config: Config) -> int:
    """The most that any of its backends takes."""
    engines = [resolve_backend(config, name).engine for name in entry_names(config)]
    return max(
        (engine.tensor_parallel_size or 1) * (engine.pipeline_parallel_size or 1) * (engine.data_parallel or 1)
        for engine in engines
    )


def _steps(path: Path, options: argparse.Namespace) -> Iterator[Step]:
    config = load_config(path)
    enginebay = tuple(shlex.split(options.enginebay))
    folder = options.out / path.stem
    plan = folder / "plan.txt"
    yield Step(
        name=f"{path.stem}: plan",
        command=(*enginebay, "plan", str(path), "--all"),
        output=plan,
        makes=plan,
        limit_s=PLAN_LIMIT_S,
    )
    for name in entry_names(config):
        own = folder / name
        probes = own / "probes.json"
        yield Step(
            name=f"{path.stem}: probe {name}",
            command=(*enginebay, "backends", "--check", str(path), "--backend", name, "--out", str(probes)),
            output=own / "probes.txt",
            makes=probes,
            limit_s=options.probe_limit_s,
        )
    backends = [part for name in entry_names(config) for part in ("--backend", name)]
    measured = folder / "bench"
    yield Step(
        name=f"{path.stem}: measure",
        command=(*enginebay, "bench", str(path), *backends, "--out", str(measured), *_whatever_is_there(measured)),
        output=folder / "bench.txt",
        makes=measured / "result.json",
        limit_s=options.measure_limit_s,
    )


def _whatever_is_there(folder: Path) -> list[str]:
    """A measurement that was cut short is gone on with; one that came to its end and failed is made again."""
    result = folder / "result.json"
    if not result.exists():
        return []
    return ["--resume" if json.loads(result.read_text())["status"] == "partial" else "--overwrite"]


def _run(step: Step) -> bool:
    if _is_done(step):
        print(f"done before: {step.name}")
        return True
    print(f"{step.name}\n  {shlex.join(step.command)}", flush=True)
    step.output.parent.mkdir(parents=True, exist_ok=True)
    step.exit_code.unlink(missing_ok=True)
    unfinished = step.output.with_suffix(".unfinished")
    with unfinished.open("wb") as output:
        code = _exit_code(step, output)
    unfinished.replace(step.output if code == 0 else step.output.with_suffix(".failed"))
    step.exit_code.write_text(f"{code}\n")
    return code == 0


def _exit_code(step: Step, output: IO[bytes]) -> int:
    process = subprocess.Popen(step.command, stdout=output, stderr=subprocess.STDOUT)
    try:
        return process.wait(step.limit_s)
    except subprocess.TimeoutExpired:
        print(f"  not done after {step.limit_s:.0f} s: it is ended", flush=True)
        process.send_signal(signal.SIGINT)
        return TIMED_OUT
    finally:  # Ctrl-C has reached it as well
        _wait_ended(process)


def _wait_ended(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _is_done(step: Step) -> bool:
    """A measurement that was cut short has a result, but a partial one."""
    if not (step.makes.exists() and step.exit_code.exists() and int(step.exit_code.read_text()) == 0):
        return False
    if step.makes.name != "result.json":
        return True
    return json.loads(step.makes.read_text())["status"] == "complete"


def _demand_room(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out).free
    if free < MIN_FREE_BYTES:
        print(f"warning: {free / 1e9:.0f} GB are free, images and weights may need {MIN_FREE_BYTES / 1e9:.0f}")


def _describe_machine(options: argparse.Namespace) -> None:
    """What the results cannot be understood without."""
    commands = {
        "gpus.txt": (options.nvidia_smi, "-q"),
        "topology.txt": (options.nvidia_smi, "topo", "-m"),
        "images.txt": (options.docker, "images", "--digests"),
        "packages.txt": (sys.executable, "-m", "pip", "freeze"),
        "doctor.txt": (*shlex.split(options.enginebay), "doctor"),
    }
    folder = options.out / "machine"
    folder.mkdir(parents=True, exist_ok=True)
    for name, command in commands.items():
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=QUERY_LIMIT_S)
            (folder / name).write_text(done.stdout + done.stderr)
        except (OSError, subprocess.TimeoutExpired) as error:
            (folder / name).write_text(f"{shlex.join(command)}: {error}\n")


def _pack(out: Path) -> Path:
    archive = out.with_name(f"{out.name}.tar.gz")
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(out, arcname=out.name)
    return archive


if __name__ == "__main__":
    sys.exit(main())
