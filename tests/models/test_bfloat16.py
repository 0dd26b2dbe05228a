import numpy as np
import torch

from enginebay.models.bfloat16 import to_bfloat16_bits


def torch_bits(values: np.ndarray) -> np.ndarray:
    return torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()


def test_rounding_is_that_of_torch_for_every_kept_part_and_the_dropped_parts_around_a_tie():
    kept = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
    for dropped in (0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        values = (kept | np.uint32(dropped)).view(np.float32)
        values = values[~np.isnan(values)]  # signalling NaNs keep no agreed bits
        np.testing.assert_array_equal(to_bfloat16_bits(values), torch_bits(values))


def test_nan_stays_nan_and_infinity_infinity():
    values = np.array([np.nan, -np.nan, np.inf, -np.inf], dtype=np.float32)
    back = torch.from_numpy(to_bfloat16_bits(values)).view(torch.bfloat16)
    assert torch.isnan(back[:2]).all()
    assert back[2:].tolist() == [np.inf, -np.inf]


def test_a_value_near_the_largest_float_rounds_to_infinity_without_a_warning():
    assert to_bfloat16_bits(np.array([np.finfo(np.float32).max], dtype=np.float32)).tolist() == [0x7F80]
