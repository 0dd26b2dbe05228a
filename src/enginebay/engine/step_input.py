"""A step plan as tensors: one flat row for each token, decode rows first, then the chunks of prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from enginebay.engine.attention import AttentionInput, DecodeGroup, PagedRows, PrefillChunk
from enginebay.engine.plan import SCRATCH_BLOCK, ScheduledSequence, StepPlan

MIN_GROUP_BLOCKS = 16
"""Decode rows of up to this many blocks share a group; longer ones are grouped by powers of two of it."""
MIN_PIECE_ROWS = 16
"""Of a prompt's chunk under a window, which is cut so that rows do not score keys that they cannot see."""
KEY_ALIGNMENT = 32
"""Keys that the native kernels sum in one instruction."""


@dataclass(frozen=True, slots=True)
class StepInput:
    token_ids: Tensor
    """(num_rows,)"""
    positions: Tensor
    context_lens: Tensor
    """(num_rows,): max(prompt length, position + 1), see `rope`."""
    attention: AttentionInput
    sampled_rows: Tensor
    """(num_sampled + num_drafts,), in the order of `StepLogits.sampled`."""
    prompt_rows: dict[int, slice]
    """Rows whose logits give log-probabilities of the prompt, by index in `plan.scheduled`."""


class StepInputBuilder:
    """What does not change from step to step: block size, the windows that layers use, and where tensors live."""

    def __init__(
        self,
        *,
        block_size: int,
        windows: Iterable[int | None],
        dtype: torch.dtype,
        device: torch.device,
        reads_paged_rows: bool = False,
    ) -> None:
        """reads_paged_rows: the form that the attention kernel reads, see `AttentionInput`."""
        self._reads_paged_rows = reads_paged_rows
        self._block_size, self._windows = block_size, tuple(windows)
        self._dtype, self._device = dtype, device

    def build(self, plan: StepPlan) -> StepInput:
        scheduled = [_parts_of(index, item) for index, item in enumerate(plan.scheduled)]
        rows = [row for parts in scheduled for row in parts]
        decode = sorted((row for row in rows if row.num_rows == 1), key=lambda row: row.start)
        chunks = [row for row in rows if row.num_rows > 1]
        first_row = 0
        for row in (*decode, *chunks):
            row.first_row = first_row
            first_row += row.num_rows
        ordered = [*decode, *chunks]
        positions = _joined(np.arange(row.start, row.end) for row in ordered)
        prompt_lens = np.repeat([row.num_prompt_tokens for row in ordered], [row.num_rows for row in ordered])
        sampled = [parts for parts in scheduled if parts[0].item.samples]
        drafts = [row for parts in sampled for row in parts[1:]]
        return StepInput(
            token_ids=self._indices([token_id for row in ordered for token_id in row.token_ids()]),
            positions=self._indices(positions),
            context_lens=self._indices(np.maximum(prompt_lens, positions + 1)),
            attention=self._attention_input(decode, chunks),
            sampled_rows=self._indices([row.last_row for row in (*(parts[0] for parts in sampled), *drafts)]),
            prompt_rows={row.index: slice(row.first_row, row.last_row + 1) for row in rows if row.wants_prompt_logits},
        )

    def _attention_input(self, decode: list[_Rows], chunks: list[_Rows]) -> AttentionInput:
        slot_mapping = self._indices(_joined(row.write_slots(self._block_size) for row in (*decode, *chunks)))
        if self._reads_paged_rows:
            ordered = [*decode, *chunks]
            paged = {window: self._paged_rows(ordered, window) for window in self._windows}
            return AttentionInput(slot_mapping, paged_rows=paged)
        groups = _grouped(decode, lambda row: max(row.end // self._block_size, MIN_GROUP_BLOCKS).bit_length())
        return AttentionInput(
            slot_mapping,
            decode_groups={window: [self._group(rows, window) for rows in groups] for window in self._windows},
            prefill_chunks={
                window: [piece for row in chunks for piece in self._pieces(row, window)] for window in self._windows
            },
        )

    def _paged_rows(self, ordered: list[_Rows], window: int | None) -> PagedRows:
        """Padding sees what the newest token sees: nobody else's values."""
        newest = [max(row.start + row.num_new_tokens - 1, 0) for row in ordered]
        positions = _joined(
            np.minimum(np.arange(row.start, row.end), last) for row, last in zip(ordered, newest, strict=True)
        )
        begins = np.zeros_like(positions) if window is None else np.maximum(positions - window + 1, 0)
        # Kernels that sum keys in sets of so many must cut them at the same positions in every step.
        aligned = math.lcm(self._block_size, KEY_ALIGNMENT)
        starts = [int(begins[row.first_row]) // aligned * aligned for row in ordered]
        tables = [
            row.block_table[start // self._block_size : last // self._block_size + 1] or [SCRATCH_BLOCK]
            for row, start, last in zip(ordered, starts, newest, strict=True)
        ]
        longest = max(map(len, tables))
        return PagedRows(
            block_tables=self._indices(np.array([table + table[-1:] * (longest - len(table)) for table in tables])),
            starts=self._indices(starts),
            sequence_of=self._indices(np.repeat(np.arange(len(ordered)), [row.num_rows for row in ordered])),
            begins=self._indices(begins),
            ends=self._indices(positions + 1),
        )

    def _group(self, rows: list[_Rows], window: int | None) -> DecodeGroup:
        firsts = [first_visible(row.start, window) // self._block_size for row in rows]
        num_blocks = max(-(-row.end // self._block_size) - first for row, first in zip(rows, firsts, strict=True))
        table = np.empty((len(rows), num_blocks), dtype=np.int64)
        for blocks, row, first in zip(table, rows, firsts, strict=True):
            # What is masked is still read, and one sequence's NaN must not reach another: neither through the scratch
            # block nor through a block that is reserved, but still holds what its last owner wrote. So the row is
            # filled up with a block that it has written itself.
            num_written = min(first + num_blocks, -(-row.end // self._block_size))
            owned = row.block_table[first:num_written] or [SCRATCH_BLOCK]
            blocks[: len(owned)] = owned
            blocks[len(owned) :] = owned[-1]
        starts, current = np.array(firsts) * self._block_size, np.array([row.start for row in rows])
        positions = np.arange(num_blocks * self._block_size) + starts[:, None]
        visible = positions <= current[:, None]
        if window is not None:
            visible &= positions > current[:, None] - window
        return DecodeGroup(
            rows=slice(rows[0].first_row, rows[-1].first_row + 1),
            block_table=self._indices(table),
            mask=self._mask(visible)[:, None, None, :],
        )

    def _pieces(self, row: _Rows, window: int | None) -> list[PrefillChunk]:
        """A chunk that is longer than the window, in pieces of that length: each scores at most twice as many keys."""
        if window is None or row.end <= window or not row.num_new_tokens:
            return [self._piece(row, window, 0, row.num_rows)]
        num_rows = max(window, MIN_PIECE_ROWS)
        return [
            self._piece(row, window, begin, min(begin + num_rows, row.num_rows))
            for begin in range(0, row.num_rows, num_rows)
        ]

    def _piece(self, row: _Rows, window: int | None, begin: int, end: int) -> PrefillChunk:
        """The rows [begin, end) of a chunk. Those that start a sequence find their keys in the step itself, others read
        them from the blocks, where those of the step are written first."""
        start, stop = row.start + begin, row.start + end
        first = first_visible(start, window)
        rows = slice(row.first_row + begin, row.first_row + end)
        slots = None if start == 0 else self._indices(row.context_slots(first, stop, self._block_size))
        if start == 0 and (window is None or stop <= window):
            return PrefillChunk(rows, context_slots=None, mask=None)
        queries, keys = np.arange(start, stop)[:, None], np.arange(first, stop)
        visible = keys <= queries
        if window is not None:
            visible &= keys > queries - window
        return PrefillChunk(rows, context_slots=slots, mask=self._mask(visible))

    def _indices(self, values: list[int] | NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.int64)).to(self._device)

    def _mask(self, visible: NDArray[np.bool_]) -> Tensor:
        """0 where visible, -inf elsewhere."""
        mask = torch.zeros(visible.shape, dtype=self._dtype)
        mask.masked_fill_(torch.from_numpy(~visible), float("-inf"))
        return mask.to(self._device)


def first_visible(position: int, window: int | None) -> int:
    return 0 if window is None else max(0, position - window + 1)


class _Rows:
    """Rows of successive tokens of one sequence.

    first_row              last_row
    |---- num_new_tokens ----|---- num_padding_tokens ----|
    """

    __slots__ = (
        "block_table", "end", "first_row", "index", "item", "num_new_tokens", "num_prompt_tokens", "num_rows", "start",
    )  # fmt: skip

    def __init__(self, index: int, item: ScheduledSequence, start: int, *, num_new_tokens: int) -> None:
        self.index, self.item, self.first_row = index, item, 0
        self.start, self.num_new_tokens = start, num_new_tokens
        self.num_rows = num_new_tokens + item.num_padding_tokens
        self.end = self.start + self.num_rows
        """Position behind the last row, padding included."""
        self.block_table = item.sequence.block_table
        self.num_prompt_tokens = item.sequence.num_prompt_tokens

    @property
    def last_row(self) -> int:
        """Of the new tokens."""
        return self.first_row + self.num_new_tokens - 1

    @property
    def wants_prompt_logits(self) -> bool:
        sequence = self.item.sequence
        is_due = sequence.request.num_prompt_logprobs is not None and not sequence.is_prompt_reported
        return is_due and self.num_new_tokens > 0 and self.start < self.num_prompt_tokens

    def token_ids(self) -> list[int]:
        sequence = self.item.sequence
        known = sequence.token_ids[self.start : self.start + self.num_new_tokens]
        if len(known) < self.num_new_tokens:  # the rest is drafted
            first = self.start + len(known) - sequence.num_tokens
            known = known + self.item.draft_token_ids[first : first + self.num_new_tokens - len(known)]
        return known + [0] * (self.num_rows - len(known))

    def write_slots(self, block_size: int) -> NDArray[np.int64]:
        """Padding, and a finished sequence that is computed again, write into the scratch block."""
        positions = np.arange(self.start, self.end)
        num_kept = 0 if self.item.is_idle else self.num_new_tokens
        blocks = np.full(self.num_rows, SCRATCH_BLOCK, dtype=np.int64)
        blocks[:num_kept] = self._blocks_of(positions[:num_kept], block_size)
        return blocks * block_size + positions % block_size

    def context_slots(self, first: int, end: int, block_size: int) -> NDArray[np.int64]:
        """Of [first, end). Padding reads the newest token again: as much work, and nobody else's values."""
        newest = max(self.start + self.num_new_tokens - 1, 0)
        positions = np.minimum(np.arange(first, end), newest)
        return self._blocks_of(positions, block_size) * block_size + positions % block_size

    def _blocks_of(self, positions: NDArray[np.int64], block_size: int) -> NDArray[np.int64]:
        table = np.array(self.block_table or [SCRATCH_BLOCK], dtype=np.int64)
        return table[np.minimum(positions // block_size, len(table) - 1)]


def _parts_of(index: int, item: ScheduledSequence) -> list[_Rows]:
    """Drafts, and the token before them, are computed like any token that is decoded, each in a row of its own: the
    kernels then do for each of them what they do without speculation, and its logits are the same to the last bit.
    """
    if not item.draft_token_ids:
        return [_Rows(index, item, item.start, num_new_tokens=item.num_new_tokens)]
    positions = range(item.start, item.start + item.num_new_tokens)
    return [_Rows(index, item, position, num_new_tokens=1) for position in positions]


def _grouped(rows: list[_Rows], key: Callable[[_Rows], int]) -> list[list[_Rows]]:
    groups: dict[int, list[_Rows]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.values())


def _joined(parts: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])
