"""Repetition, presence and frequency penalties, on counts that follow the sequences."""

from __future__ import annotations

from collections.abc import Sequence as Many
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from enginebay.engine.finite import finite_float32
from enginebay.engine.sequence import Sequence


class Penalties:
    """The penalised rows of one batch. Counts are made once and then grow with the sequences' tokens."""

    def __init__(self, rows: Many[int], sequences: Many[Sequence], *, vocab_size: int, device: torch.device) -> None:
        """rows[i] is the row of sequences[i] in the logits."""
        requests = [sequence.request for sequence in sequences]
        self._sequences = sequences
        self._rows = torch.tensor(rows, device=device)
        self._repetition = _column([request.repetition_penalty for request in requests], device)
        self._presence = _column([request.presence_penalty for request in requests], device)
        self._frequency = _column([request.frequency_penalty for request in requests], device)
        self._num_counted = [0] * len(sequences)
        self._is_known = torch.zeros((len(rows), vocab_size), dtype=torch.bool, device=device)
        """Tokens of prompt and output: what repetition_penalty is about."""
        self._num_outputs = torch.zeros((len(rows), vocab_size), device=device)
        """How often each token was output: what presence_penalty and frequency_penalty are about."""

    def apply(self, scores: Tensor) -> None:
        """scores: (num_rows, vocab_size), changed in place. Order as in vLLM: repetition, frequency, presence."""
        self._count_new_tokens()
        penalised = scores.index_select(0, self._rows)
        repeated = torch.where(penalised > 0, penalised / self._repetition, penalised * self._repetition)
        penalised = torch.where(self._is_known, repeated, penalised)
        penalised -= self._frequency * self._num_outputs
        penalised -= self._presence * (self._num_outputs > 0)
        scores.index_copy_(0, self._rows, penalised)

    def _count_new_tokens(self) -> None:
        known: list[list[int]] = []
        outputs: list[list[int]] = []
        for index, sequence in enumerate(self._sequences):
            first, self._num_counted[index] = self._num_counted[index], sequence.num_tokens
            known.append(sequence.token_ids[first:])
            outputs.append(sequence.token_ids[max(first, sequence.num_prompt_tokens) :])
        self._is_known[self._places(known)] = True
        rows, token_ids = self._places(outputs)
        self._num_outputs.index_put_((rows, token_ids), self._num_outputs.new_ones(len(rows)), accumulate=True)

    def _places(self, token_ids: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Rows and columns of the tokens of each sequence."""
        rows = np.repeat(np.arange(len(token_ids)), [len(ids) for ids in token_ids])
        columns = np.fromiter(chain.from_iterable(token_ids), dtype=np.int64, count=len(rows))
        device = self._rows.device
        return torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)


def _column(values: list[float], device: torch.device) -> Tensor:
    return finite_float32(values, device)[:, None]
