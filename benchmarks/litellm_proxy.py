"""LiteLLM's proxy, as a peer of the gateway: installed in an environment of its own, and started before one server.

    python benchmarks/litellm_proxy.py    # install it into .venvs/litellm

One Uvicorn worker, a master key, no database, production mode and a log of errors alone, as its page on production
has it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
from gateway_stage import GATEWAY_CPU, ROOT, Target, ended_after, log_kept_on_failure, pinned

VERSION = "1.106.2"
FOLDER = ROOT / ".venvs" / "litellm"
KEY = "sk-benchmark-0123456789abcdef"
START_S = 120.0
CONFIG = """
model_list:
  - model_name: m
    litellm_params: {{model: text-completion-openai/m, api_base: "{engine}/v1", api_key: none}}
general_settings: {{master_key: {key}}}
litellm_settings: {{set_verbose: false, json_logs: true, request_timeout: 600, telemetry: false}}
"""
SETTINGS = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # the one it brings along, instead of one from the network
    "NO_DOCS": "True",
}


def installed_version() -> str | None:
    """None where it is not installed."""
    python = FOLDER / "bin" / "python"
    if not python.exists():
        return None
    code = "import importlib.metadata as m; print(m.version('litellm'))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def install() -> None:
    """Nothing where this version is there already."""
    if installed_version() == VERSION:
        return
    venv.create(FOLDER, with_pip=True)
    pip = [FOLDER / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", f"litellm[proxy]=={VERSION}"], check=True)


@contextmanager
def litellm_proxy(engine: str) -> Generator[Target, None, None]:
    """Its proxy before the engine, on the gateway's CPU."""
    with tempfile.TemporaryDirectory() as folder, log_kept_on_failure(log := Path(folder) / "litellm.log"):
        config = Path(folder) / "litellm.yaml"
        config.write_text(CONFIG.format(engine=engine, key=KEY))
        port = _free_port()
        command = [str(FOLDER / "bin" / "litellm"), "--config", str(config), "--host", "127.0.0.1"]
        command += ["--port", str(port), "--num_workers", "1"]
        with log.open("w") as errors:
            process = subprocess.Popen(
                pinned(GATEWAY_CPU, *command), stdout=errors, stderr=errors, text=True, env={**os.environ, **SETTINGS}
            )
        with ended_after(process):
            url = f"http://127.0.0.1:{port}"
            _wait_until_alive(url, process)
            yield Target(url, KEY, psutil.Process(process.pid))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def _wait_until_alive(url: str, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health/liveliness", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise RuntimeError(f"LiteLLM's proxy was not alive within {START_S:g} s")


def main() -> int:
    install()
    print(f"{FOLDER} has litellm {installed_version()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
