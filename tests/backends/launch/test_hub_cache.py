from pathlib import Path

import pytest

from enginebay.backends.http_engine.options import ServerOptions
from enginebay.backends.launch.docker import docker_run
from enginebay.errors import ConfigError


def run_arguments() -> tuple[str, ...]:
    return docker_run(
        (), options=ServerOptions(), image="engine:1", port=8000, container_port=80, model="hf:owner/name"
    )


def test_the_hubs_cache_is_where_the_hub_is_told_to_keep_it(monkeypatch) -> None:
    monkeypatch.setenv("HF_HOME", "/somewhere/hub")
    assert "/somewhere/hub:/root/.cache/huggingface" in " ".join(run_arguments())


def test_without_a_home_directory_it_has_to_be_told(monkeypatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(ConfigError, match=r"options\.cache_directory.*HF_HOME"):
        run_arguments()
