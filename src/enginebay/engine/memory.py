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
    limit, used = _cgroup_bytes("memory.max"), _cgroup_bytes("memory.current")
    return available if limit is None or used is None else min(available, limit - used)


def _cgroup_bytes(name: str) -> int | None:
    """None where there is no control group (version 2), or no limit."""
    try:
        text = (CGROUP / name).read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
