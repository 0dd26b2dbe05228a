"""How much energy this machine used meanwhile: its GPUs by NVML, its processors by RAPL; None with the reason why.

Both are counters of the hardware that only go up, so nothing runs beside the load: one reading before, one after. They
count the whole device, whoever used it, idling included; and only of this machine, not of a server somewhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec

RAPL = Path("/sys/class/powercap")
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
ELSEWHERE = "the engine runs on another machine"


class EnergyUse(msgspec.Struct, frozen=True, kw_only=True):
    gpu_joules: float | None = None
    cpu_joules: float | None = None
    why_no_gpu: str = ""
    why_no_cpu: str = ""


class EnergyMeter(Protocol):
    def start(self) -> None: ...

    def stop(self) -> EnergyUse:
        """Since `start`."""
        ...


class NoMeter:
    """For an engine that is not on this machine."""

    def start(self) -> None: ...

    def stop(self) -> EnergyUse:
        return EnergyUse(why_no_gpu=ELSEWHERE, why_no_cpu=ELSEWHERE)


class MachineMeter:
    """Everything that this machine's counters tell."""

    def __init__(self, *, rapl: Path = RAPL) -> None:
        self._rapl = rapl
        self._gpu: _Reading = _Reading({}, "it was not asked")
        self._cpu = self._gpu

    def start(self) -> None:
        self._gpu, self._cpu = _read_gpus(), _read_packages(self._rapl)

    def stop(self) -> EnergyUse:
        gpu_joules, why_no_gpu = _used(self._gpu, _read_gpus())
        cpu_joules, why_no_cpu = _used(self._cpu, _read_packages(self._rapl))
        return EnergyUse(gpu_joules=gpu_joules, cpu_joules=cpu_joules, why_no_gpu=why_no_gpu, why_no_cpu=why_no_cpu)


def meter_for(url: str | None) -> EnergyMeter:
    """url: of a server that runs already; None for an engine that is started here."""
    return MachineMeter() if url is None or urlsplit(url).hostname in LOOPBACK else NoMeter()


class _Counter(msgspec.Struct, frozen=True):
    joules: float
    range_joules: float | None = None
    """Where it begins again; None: never."""


class _Reading(msgspec.Struct, frozen=True):
    counters: Mapping[str, _Counter]
    why_none: str = ""


def _used(before: _Reading, after: _Reading) -> tuple[float | None, str]:
    if reason := before.why_none or after.why_none:
        return None, reason
    if before.counters.keys() != after.counters.keys():
        return None, "not every device could be read both times"
    total = 0.0
    for name, counter in after.counters.items():
        used = counter.joules - before.counters[name].joules
        if used < 0 and counter.range_joules is not None:
            used += counter.range_joules
        total += used
    return total, ""


def _read_packages(folder: Path) -> _Reading:
    """The sockets: `intel-rapl:0`, and not their parts `intel-rapl:0:0`. AMD's are under the same name."""
    packages = sorted(folder.glob("intel-rapl:[0-9]*")) if folder.is_dir() else []
    packages = [package for package in packages if package.name.count(":") == 1]
    if not packages:
        return _Reading({}, f"no RAPL counters in {folder}")
    try:
        counters = {package.name: _counter(package) for package in packages}
    except PermissionError:
        return _Reading({}, f"the RAPL counters in {folder} may be read by root alone")
    except (OSError, ValueError) as error:
        return _Reading({}, f"the RAPL counters in {folder} cannot be read: {error}")
    return _Reading(counters)


def _counter(package: Path) -> _Counter:
    return _Counter(
        int((package / "energy_uj").read_text(encoding="ascii")) / 1e6,
        int((package / "max_energy_range_uj").read_text(encoding="ascii")) / 1e6,
    )


def _read_gpus() -> _Reading:
    """Since the driver was loaded; GPUs before Volta have no such counter."""
    try:
        import pynvml  # pyright: ignore[reportMissingImports]
    except ImportError:
        return _Reading({}, "nvidia-ml-py is not installed: pip install 'enginebay[energy]'")
    nvml: Any = pynvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return _Reading({}, f"NVML: {error}")
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        millijoules = [nvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles]
    except nvml.NVMLError as error:
        return _Reading({}, f"NVML: {error}")
    finally:
        nvml.nvmlShutdown()
    return _Reading({f"gpu{index}": _Counter(value / 1000) for index, value in enumerate(millijoules)})
