"""`enginebay init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from enginebay.cli.machine import Machine, this_machine
from enginebay.errors import ConfigError, PluginError
from enginebay.plugins import PACKAGES, find_backend, list_backends

_PREFERRED = ("vllm", "sglang", "tensorrt_llm", "reference", "llama_cpp", "openvino", "openai_http")
"""With a GPU the first that is installed; without one the engine of this project."""

_TEMPLATE = """\
# Checked with `enginebay config validate {file}`; `enginebay config schema` gives editors its keys.
version: 1

# A name that `enginebay models pull` knows, hf:owner/name, or a directory.
model: smollm2-135m

# The one line to change: a kind of backend, or a name from the map below.
# Installed here: {installed}.
# Further kinds: {further}.
backend: {backend}

# Portable settings: every engine gets them in its own words; `enginebay plan {file}` shows how.
# What is left out stays at the engine's own default.
engine:
  max_num_seqs: {max_num_seqs}       # sequences computed at the same time; this machine has {machine}
  max_model_len: {max_model_len}    # prompt and output together, in tokens
  # dtype: {dtype}

# Named backends: only what differs from the above. A kind may appear under several names.
backends:
  small-batch:
    kind: {backend}
    engine: {{max_num_seqs: 1}}
  # running-server:
  #   kind: openai_http
  #   url: http://127.0.0.1:8000
  #   options: {{api_key: "${{API_KEY}}"}}     # ${{NAME}} comes from the environment and is never shown

# The load that `enginebay bench {file} --backend {backend} --backend small-batch` measures under.
bench:
  num_requests: 48
  users: [16]
  input_tokens: {{min: 16, max: 256}}
  output_tokens: {{min: 16, max: 64}}
  slo: {{ttft_s: 1.0, tpot_s: 0.2}}

server:
  host: 127.0.0.1
  port: 8000
"""


def init(
    path: Annotated[Path, Parameter(help="The file to write.")] = Path("enginebay.yaml"),
    /,
    *,
    force: Annotated[bool, Parameter(help="Replace a file that is there.", negative="")] = False,
) -> None:
    """Write a commented config for what this machine has."""
    text = config_text(path.name, this_machine(), usable=_usable_kinds())
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError("the file is there already; --force replaces it", file=str(path)) from error
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", file=str(path)) from error
    print(f"wrote {path}; next: enginebay serve {path}")


def config_text(file: str, machine: Machine, *, usable: tuple[str, ...]) -> str:
    """The text of a config that validates. usable: the kinds that are installed and load."""
    preferred = _PREFERRED if machine.gpus else ("reference", *_PREFERRED)
    backend = next((kind for kind in preferred if kind in usable), "reference")
    has = f"{len(machine.gpus)} GPU(s)" if machine.gpus else f"{machine.num_cores:g} cores and no GPU"
    return _TEMPLATE.format(
        file=file,
        installed=", ".join(usable) or "none",
        further=", ".join(sorted(set(PACKAGES) - set(usable))),
        backend=backend,
        max_num_seqs=64 if machine.gpus else 16,
        max_model_len=4096 if machine.gpus else 2048,
        dtype="bfloat16",
        machine=has,
    )


def _usable_kinds() -> tuple[str, ...]:
    usable: list[str] = []
    for backend in list_backends():
        try:
            find_backend(backend.kind)
        except PluginError:
            continue  # `enginebay backends` and `doctor` say why
        usable.append(backend.kind)
    return tuple(usable)
