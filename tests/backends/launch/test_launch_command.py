"""What a plugin makes its command line of."""

from __future__ import annotations

from pathlib import Path

import pytest
from launch_fakes import context_with

from enginebay.backends.launch import at_port, container_model_argument, docker_run, model_argument, run_command
from enginebay.errors import ConfigError


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEBAY_HOME", "/bay")
    monkeypatch.setenv("HF_HOME", "/hub")


def test_a_model_is_a_directory_or_a_name_of_the_hub(tmp_path: Path):
    directory = model_argument("smollm2-135m")
    assert directory.startswith("/bay/models/smollm2-135m-")
    assert container_model_argument("smollm2-135m") == f"/models/{Path(directory).name}"
    assert model_argument(str(tmp_path)) == str(tmp_path)
    assert model_argument("hf:acme/llm") == container_model_argument("hf:acme/llm") == "acme/llm"


def test_a_revision_in_the_model_is_refused_and_never_dropped():
    with pytest.raises(ConfigError, match=r"expected model: hf:acme/llm and engine: \{revision: v1\}"):
        model_argument("hf:acme/llm@v1")
    with pytest.raises(ConfigError, match=r"model: there is no directory 'acme/llm'\. Did you mean 'hf:acme/llm'"):
        model_argument("acme/llm")


def test_a_wrapper_and_further_arguments_are_part_of_the_command():
    options = context_with(extra_arguments=["--fast"]).options
    assert run_command(("vllm", "serve"), ("--port", "1"), options=options) == (
        "vllm", "serve", "--port", "1", "--fast",
    )  # fmt: skip
    options = context_with(executable=["numactl", "-N0", "vllm", "serve"]).options
    assert run_command(("vllm", "serve"), ("--port", "1"), options=options)[:4] == ("numactl", "-N0", "vllm", "serve")


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (["--port", "9"], "options.port"),
        (["--port=9"], "options.port"),
        (["--max_num_seqs", "9"], "no setting"),
        (["-p", "9"], "options.port"),
    ],
)
def test_an_extra_argument_that_repeats_one_of_ours_is_refused(extra: list[str], expected: str):
    options = context_with(extra_arguments=extra).options
    arguments = ("-p", "1", "--port", "1", "--max-num-seqs=-3")
    with pytest.raises(ConfigError, match=f"options.extra_arguments: .* is set already.*{expected}"):
        run_command(("serve",), arguments, options=options)
    with pytest.raises(ConfigError, match="is set already"):
        docker_run(arguments, options=options, image="i:1", port=1, container_port=2, model="hf:a/b")


def test_a_value_that_looks_like_a_value_of_ours_is_not_refused():
    options = context_with(extra_arguments=["--gap", "-1", "--name", "x"]).options
    assert run_command(("serve",), ("--low", "-1", "x"), options=options)[-4:] == ("--gap", "-1", "--name", "x")


def test_the_chosen_port_is_the_contexts():
    assert at_port(context_with(port=None, gpus="1"), 4711).options.port == 4711


def test_docker_run_has_gpus_shared_memory_port_cache_and_names_of_variables():
    command = docker_run(
        ("--num-shard", "2"),
        options=context_with(extra_arguments=["--json-output"]).options,
        image="ghcr.io/acme/tgi:3.3.7",
        port=8080,
        container_port=80,
        model="hf:acme/llm",
        environment=("HF_TOKEN", "API_KEY", "HF_TOKEN"),
        cache_in_container="/data",
        shm_size="1g",
        flags=("--ipc", "host"),
    )
    assert " ".join(command) == (
        "docker run --rm --gpus all --shm-size 1g --ipc host -p 127.0.0.1:8080:80 -v /hub:/data "
        "-e HF_TOKEN -e API_KEY ghcr.io/acme/tgi:3.3.7 --num-shard 2 --json-output"
    )


def test_docker_run_mounts_a_directory_and_takes_no_gpus_and_another_entry_point(tmp_path: Path):
    options = context_with(gpus=None, container_runtime="podman", executable=["/wrap", "-v"]).options
    model = str(tmp_path)
    command = docker_run(
        ("--model", container_model_argument(model)),
        options=options, image="i:1", port=1, container_port=2, model=model,
    )  # fmt: skip
    mounted = f"/models/{tmp_path.name}"
    assert " ".join(command) == (
        f"podman run --rm -p 127.0.0.1:1:2 -v {model}:{mounted}:ro --entrypoint /wrap i:1 -v --model {mounted}"
    )
    options = context_with(cache_directory="/cache").options
    command = docker_run((), options=options, image="i:1", port=1, container_port=2, model="hf:a/b")
    assert "/cache:/root/.cache/huggingface" in command
