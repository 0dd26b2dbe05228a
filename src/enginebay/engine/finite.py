"""Numbers of requests as float32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LARGEST = torch.finfo(torch.float32).max


def finite_float32(values: Sequence[float], device: torch.device) -> Tensor:
    """(n,): what is beyond float32 becomes its largest number, not infinity, which makes NaN of the next zero."""
    return torch.tensor(values, dtype=torch.float64).clamp_(-LARGEST, LARGEST).to(device, torch.float32)
