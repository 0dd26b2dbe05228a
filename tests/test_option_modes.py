"""An option that the mode would drop is refused, with the modes in which it acts."""

import pytest

from enginebay.config.loader import parse_config
from enginebay.configured import check_backend
from enginebay.errors import ConfigError, ConfigErrors
from enginebay.option_modes import unused_options
from enginebay.plugins import find_backend, get_backend

ENTRY = """version: 1
backend: mine
model: m
backends:
  mine:
    kind: {kind}
    mode: {mode}
    {place}
    options:
      {option}
"""
URL = 'url: "http://127.0.0.1:1"'
DROPPED = [
    ("vllm", "in_process", "extra_arguments: [--some-flag]"),
    ("vllm", "in_process", "port: 8000"),
    ("vllm", "in_process", "executable: [wrapper]"),
    ("vllm", "in_process", "api_key: k"),
    ("vllm", "in_process", "max_connections: 4"),
    ("vllm", "in_process", "idle_timeout_s: 4.0"),
    ("vllm", "in_process", "dev_mode: true"),
    ("vllm", "external", "extra_arguments: [--some-flag]"),
    ("vllm", "external", "port: 8000"),
    ("vllm", "external", "log_file: engine.log"),
    ("vllm", "external", "gpus: all"),
    ("vllm", "external", "version: 0.32.0"),
    ("vllm", "managed", "gpus: all"),
    ("vllm", "managed", "container_runtime: podman"),
    ("vllm", "managed", "cache_directory: /weights"),
    ("vllm", "managed", "ca_file: ca.pem"),
    ("sglang", "external", "deterministic: true"),
    ("tgi", "managed", "shm_size: 2g"),
    ("tgi", "docker", "prometheus_port: 9001"),
    ("llama_cpp", "external", "num_gpu_layers: 4"),
    ("tensorrt_llm", "external", "iteration_stats: false"),
    ("tensorrt_llm", "in_process", "prometheus_metrics: false"),
]
KINDS = ("reference", "openai_http", "vllm", "tgi", "tensorrt_llm", "sglang", "llama_cpp", "openvino")


@pytest.mark.parametrize(("kind", "mode", "option"), DROPPED)
def test_an_option_that_the_mode_would_drop_is_refused_at_its_line(kind: str, mode: str, option: str) -> None:
    text = ENTRY.format(kind=kind, mode=mode, option=option, place=URL if mode == "external" else "")
    with pytest.raises(ConfigError) as caught:
        check_backend(parse_config(text, file="some.yaml"))
    error = caught.value
    assert (error.path, error.line) == (f"backends.mine.options.{option.partition(':')[0]}", 10)
    assert f"in mode {mode!r} would drop this" in error.problem


def test_the_refusal_names_the_modes_of_the_kind_in_which_it_acts() -> None:
    with pytest.raises(ConfigError, match="leave it out, it acts in mode docker or managed") as caught:
        get_backend("tgi", mode="external", url="http://127.0.0.1:1", options={"port": 8000})
    assert caught.value.path == "options.port"


def test_the_default_mode_counts_where_none_is_given() -> None:
    with pytest.raises(ConfigError, match="in mode 'managed' would drop this"):
        get_backend("vllm", options={"gpus": "all"})


def test_several_dropped_options_are_told_at_once() -> None:
    text = ENTRY.format(kind="vllm", mode="external", place=URL, option="port: 8000\n      gpus: all")
    with pytest.raises(ConfigErrors) as caught:
        check_backend(parse_config(text))
    assert {problem.path for problem in caught.value.problems} == {
        "backends.mine.options.port",
        "backends.mine.options.gpus",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_acts_in_some_mode_of_its_kind_and_defaults_are_never_refused(kind: str) -> None:
    spec = find_backend(kind)
    fields = spec.options_model.model_fields
    whole = spec.options_model.model_construct(_fields_set=set(fields))
    dropped = [set(unused_options(whole, mode)) for mode in spec.modes]
    assert not set.intersection(*dropped)
    assert not any(unused_options(spec.options_model.model_validate({}), mode) for mode in spec.modes)
