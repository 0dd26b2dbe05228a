"""The launch flags of `tritonserver` that are of use here. Engine and batch come from the model repository."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from enginebay.testing.simulators.flags import Flag, FlagTable, Problem, Values, boolean
from enginebay.testing.simulators.performance import SimulatorProfile
from enginebay.testing.simulators.wire import Launch


def _wording(problem: Problem, flag: str, value: str, choices: Sequence[str]) -> str:
    """Of getopt_long, behind Triton's own line."""
    what = {
        "unknown": f"unrecognized option '{flag}'",
        "value": f"Invalid option value. Got {value}",
        "choice": f"Invalid option value. Got {value}",
        "missing": f"option '{flag}' requires an argument",
    }[problem]
    return f"tritonserver: {what}\nUsage: tritonserver [options]"


FLAGS = FlagTable(
    flags=(
        Flag("--model-repository"),
        Flag("--http-address", default="0.0.0.0"),
        Flag("--http-port", int, 0),
        Flag("--grpc-port", int, 8001),
        Flag("--metrics-port", int, 8002),
        Flag("--allow-grpc", boolean, True),
        Flag("--allow-metrics", boolean, True),
        Flag("--log-verbose", int, 0),
        Flag("--model-control-mode", default="none", choices=("none", "poll", "explicit")),
        Flag("--load-model"),
        Flag("--disable-auto-complete-config", is_switch=True, default=False),
        Flag("--backend-config"),
    ),
    wording=_wording,
)


def configure(values: Values, profile: SimulatorProfile) -> Launch:
    return Launch(model="ensemble", profile=profile, values=values, port=cast(int, values["http_port"]))
