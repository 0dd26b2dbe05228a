"""A prompt's chunk under a sliding window: no row scores keys that lie far outside of it, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from runner_driving import BLOCK_SIZE, new_sequence

from enginebay.engine.attention import PrefillChunk, prefill
from enginebay.engine.layer_cache import PlainLayerCache
from enginebay.engine.plan import ScheduledSequence, StepPlan
from enginebay.engine.step_input import StepInputBuilder

WINDOW, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, NUM_BLOCKS = 20, 4, 2, 8, 64


def pieces(start: int, num_new_tokens: int, *, num_padding_tokens: int = 0) -> list[PrefillChunk]:
    sequence = new_sequence([1] * (start + num_new_tokens), range(1, NUM_BLOCKS))
    item = ScheduledSequence(sequence, start, num_new_tokens, num_padding_tokens=num_padding_tokens, samples=True)
    builder = StepInputBuilder(
        block_size=BLOCK_SIZE, windows=(WINDOW, None), dtype=torch.float32, device=torch.device("cpu")
    )
    return builder.build(StepPlan([item])).attention.prefill_chunks[WINDOW]


def num_rows(piece: PrefillChunk) -> int:
    return piece.rows.stop - piece.rows.start


def num_keys(piece: PrefillChunk) -> int:
    return num_rows(piece) if piece.context_slots is None else len(piece.context_slots)


@pytest.mark.parametrize("start", [0, 7, 100])
@pytest.mark.parametrize("num_new_tokens", [2, 19, 20, 21, 40, 97])
def test_no_row_scores_more_keys_than_twice_the_window(start: int, num_new_tokens: int):
    found = pieces(start, num_new_tokens)
    assert [piece.rows.start for piece in found] == [0, *(piece.rows.stop for piece in found[:-1])]
    assert found[-1].rows.stop == num_new_tokens
    assert all(num_keys(piece) < 2 * WINDOW for piece in found)
    assert all(piece.mask is None or piece.mask.shape == (num_rows(piece), num_keys(piece)) for piece in found)


def test_a_chunk_within_the_window_is_one_piece_without_a_mask():
    [piece] = pieces(0, WINDOW)
    assert (piece.context_slots, piece.mask) == (None, None)


@pytest.mark.parametrize(("start", "num_new_tokens"), [(0, 97), (7, 60), (100, 50)])
def test_every_row_attends_to_what_its_window_shows_and_to_nothing_else(start: int, num_new_tokens: int):
    generator = torch.Generator().manual_seed(start)
    end = start + num_new_tokens
    queries = torch.randn(end, NUM_HEADS, HEAD_DIM, generator=generator)
    keys, values = torch.randn(2, end, NUM_KV_HEADS, HEAD_DIM, generator=generator)
    cache = PlainLayerCache(*torch.zeros(2, NUM_BLOCKS, BLOCK_SIZE, NUM_KV_HEADS, HEAD_DIM))
    cache.write(keys, values, torch.arange(end) + BLOCK_SIZE)  # the sequence's blocks are 1, 2, 3, ...
    attended = torch.cat(
        [
            prefill(queries[start:], keys[start:], values[start:], cache, piece)
            for piece in pieces(start, num_new_tokens)
        ]
    )
    for row, position in enumerate(range(start, end)):
        seen = slice(max(0, position - WINDOW + 1), position + 1)
        expected = torch.nn.functional.scaled_dot_product_attention(
            queries[position].unsqueeze(1),
            keys[seen].repeat_interleave(NUM_HEADS // NUM_KV_HEADS, dim=1).transpose(0, 1),
            values[seen].repeat_interleave(NUM_HEADS // NUM_KV_HEADS, dim=1).transpose(0, 1),
        )
        torch.testing.assert_close(attended[row].view(NUM_HEADS, HEAD_DIM), expected.squeeze(1), rtol=1e-5, atol=1e-6)


def test_padding_alone_is_not_cut_as_it_has_no_keys_of_its_own_in_the_blocks():
    [piece] = pieces(0, 0, num_padding_tokens=50)
    assert piece.context_slots is None
