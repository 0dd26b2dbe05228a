"""The unattended comparison of a GPU machine, with stand-ins for the programs that only such a machine has."""

import json
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_comparison.py"
CONFIGS = sorted((ROOT / "configs" / "gpu").glob("*.yaml"))

ENGINEBAY = """
import json, pathlib, sys, time
arguments = sys.argv[1:]
with open({log!r}, "a") as log:
    log.write(json.dumps(arguments) + "\\n")
if "broken" in arguments:
    sys.exit("this engine does not start")
if "--out" in arguments:
    out = pathlib.Path(arguments[arguments.index("--out") + 1])
    if arguments[0] == "bench":
        out = out / "result.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({{"status": {status!r}}}))
    if "half-broken" in arguments:
        sys.exit("some probes failed")
if "hanging" in arguments:
    time.sleep(60)
print("done", arguments[0])
"""


def program(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return str(path)


class Machine:
    def __init__(self, folder: Path, *, num_gpus: int = 2) -> None:
        self.folder, self.log = folder, folder / "calls.jsonl"
        gpus = "\n".join(["echo NVIDIA H100 80GB HBM3"] * num_gpus)
        self.nvidia_smi = program(folder / "nvidia-smi", f"#!/bin/sh\n{gpus}\n")
        self.docker = program(folder / "docker", "#!/bin/sh\necho vllm/vllm-openai sha256:1234\n")
        self.out = folder / "gpu"

    def run(self, *arguments: str, status: str = "complete") -> subprocess.CompletedProcess[str]:
        enginebay = self.folder / "enginebay.py"
        enginebay.write_text(ENGINEBAY.format(log=str(self.log), status=status))
        command = [sys.executable, str(SCRIPT), *arguments, "--out", str(self.out)]
        command += ["--enginebay", f"{sys.executable} {enginebay}", "--nvidia-smi", self.nvidia_smi]
        command += ["--docker", self.docker]
        in_background = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *command]
        return subprocess.run(in_background, capture_output=True, text=True, check=False)

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def test_the_shipped_configs_are_three_models_on_one_and_on_two_gpus() -> None:
    names = {path.stem.rpartition("-")[0] for path in CONFIGS}
    assert names == {"llama-3.1-8b", "qwen3-8b", "llama-2-7b"}
    assert len(CONFIGS) == 6


def test_every_config_is_planned_probed_for_each_engine_measured_and_packed(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    config = ROOT / "configs" / "gpu" / "qwen3-8b-1xh100.yaml"
    done = machine.run(str(config))
    assert done.returncode == 0, done.stderr
    calls = [call for call in machine.calls() if call[0] != "doctor"]
    assert [call[0] for call in calls] == ["plan", *["backends"] * 4, "bench"]
    probed = [call[call.index("--backend") + 1] for call in calls if call[0] == "backends"]
    assert probed == ["vllm", "tgi", "tensorrt_llm", "sglang"]
    with tarfile.open(machine.out.with_suffix(".tar.gz")) as packed:
        names = packed.getnames()
    assert {
        "gpu/machine/gpus.txt",
        "gpu/machine/images.txt",
        "gpu/qwen3-8b-1xh100/plan.txt",
        "gpu/qwen3-8b-1xh100/tgi/probes.json",
        "gpu/qwen3-8b-1xh100/bench/result.json",
    } <= set(names)
    assert (machine.out / "qwen3-8b-1xh100" / "plan.txt").read_text() == "done plan\n"


def test_a_second_run_repeats_nothing_that_is_complete_and_measures_again_what_was_cut_short(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    config = str(ROOT / "configs" / "gpu" / "qwen3-8b-1xh100.yaml")
    machine.run(config, status="partial")
    num_calls = len(machine.calls())
    machine.run(config)
    assert [call[0] for call in machine.calls()[num_calls:]] == ["doctor", "bench"]
    assert machine.calls()[-1][-1] == "--resume", "what was measured is gone on with"
    num_calls = len(machine.calls())
    machine.run(config)
    assert [call[0] for call in machine.calls()[num_calls:]] == ["doctor"]


def test_an_engine_that_fails_does_not_end_the_comparison_and_is_told_at_the_end(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    config = tmp_path / "some.yaml"
    config.write_text("version: 1\nbackend: broken\nbackends: {broken: {kind: vllm}, sound: {kind: tgi}}\n")
    done = machine.run(str(config))
    assert done.returncode == 1
    assert "failed: some: probe broken" in done.stderr
    assert [call[0] for call in machine.calls() if call[0] != "doctor"] == ["plan", "backends", "backends", "bench"]
    assert "does not start" in (machine.out / "some" / "broken" / "probes.failed").read_text()


def test_a_step_that_wrote_its_result_and_failed_is_repeated(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    config = tmp_path / "some.yaml"
    config.write_text("version: 1\nbackend: half-broken\nbackends: {half-broken: {kind: vllm}, sound: {kind: tgi}}\n")
    assert machine.run(str(config)).returncode == 1
    num_calls = len(machine.calls())
    assert machine.run(str(config)).returncode == 1
    repeated = [call for call in machine.calls()[num_calls:] if call[0] != "doctor"]
    assert [(call[0], "half-broken" in call) for call in repeated] == [("backends", True), ("bench", True)]
    assert repeated[-1][-1] == "--overwrite", "it had come to its end"


def test_a_step_that_takes_longer_than_it_may_is_ended_and_told(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    config = tmp_path / "some.yaml"
    config.write_text("version: 1\nbackend: hanging\nbackends: {hanging: {kind: vllm}}\n")
    done = machine.run(str(config), "--probe-limit-s", "0.5", "--measure-limit-s", "0.5")
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["failed: some: probe hanging", "failed: some: measure"]
    assert (machine.out / "some" / "hanging" / "probes.exit").read_text() == "124\n"


@pytest.mark.parametrize(
    ("script", "told"),
    [("exit 9", "exit code 9"), ("true", "finds no GPU"), ("echo No devices were found", "finds no GPU")],
)
def test_a_machine_without_a_gpu_is_told_so_and_nothing_is_packed(tmp_path: Path, script: str, told: str) -> None:
    machine = Machine(tmp_path)
    program(Path(machine.nvidia_smi), f"#!/bin/sh\n{script}\n")
    done = machine.run()
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not machine.out.with_name("gpu.tar.gz").exists()


def test_the_archive_has_the_whole_name_of_the_folder(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.out = tmp_path / "gpu.v1"
    machine.run(str(ROOT / "configs" / "gpu" / "qwen3-8b-1xh100.yaml"))
    assert (tmp_path / "gpu.v1.tar.gz").exists()


def test_only_what_the_machine_has_gpus_for_is_run(tmp_path: Path) -> None:
    done = Machine(tmp_path, num_gpus=1).run()
    assert done.stdout.count("left out:") == 3
    refused = Machine(tmp_path, num_gpus=1).run(str(ROOT / "configs" / "gpu" / "qwen3-8b-2xh100.yaml"))
    assert refused.returncode == 1
    assert "needs 2 GPUs, this machine has 1" in refused.stderr


@pytest.mark.parametrize("arguments", [(), (str(CONFIGS[0]),)])
def test_a_dry_run_prints_the_commands_and_needs_no_gpu(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    command = [sys.executable, str(SCRIPT), "--dry-run", *arguments, "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    num_configs = len(arguments) or len(CONFIGS)
    assert len(done.stdout.splitlines()) == 6 * num_configs
    assert not (tmp_path / "out").exists()
