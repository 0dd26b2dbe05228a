"""How much memory this process may still take."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

CGROUP = Path("/sys/fs/cgroup")


def available_memory_bytes(device: torch.device) -> int:
    """On the CPU what the machine has free, within the limit of the control group (a container)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    available = psutil.virtual_memory().available
    limit, used = _cgroup_number("memory.max"), _cgroup_number("memory.current")
    if limit is None or used is None:
        return available
    return min(available, limit - used + _reclaimable_bytes())


def shareable_memory_bytes(device: torch.device) -> int:
    """What `gpu_memory_fraction` is a fraction of: all memory of an accelerator; on the CPU, where everything else
    lives too, what is available."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return available_memory_bytes(device)


def _cgroup_number(name: str) -> int | None:
    """None where there is no control group (version 2), or no limit."""
    text = _cgroup_text(name).strip()
    return int(text) if text.isdigit() else None


def _reclaimable_bytes() -> int:
    """Files in the page cache count as used, but give way: the weights that were just read are among them."""
    for line in _cgroup_text("memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file":
            return int(value)
    return 0


def _cgroup_text(name: str) -> str:
    try:
        return (CGROUP / name).read_text(encoding="ascii")
    except OSError:
        return ""
