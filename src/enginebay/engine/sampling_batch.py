"""The sampling parameters of a step's rows as tensors; kept as long as the same sequences are sampled."""

from __future__ import annotations

from collections.abc import Sequence as Many

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from enginebay.engine.draw import draw_tokens
from enginebay.engine.filters import Filters
from enginebay.engine.finite import finite_float32
from enginebay.engine.noise import MASK_64, TOKENS, uniform_noise
from enginebay.engine.penalties import Penalties
from enginebay.engine.request import EngineRequest
from enginebay.engine.sequence import Sequence

GREEDY_TEMPERATURE = 1e-5
"""Below it the best token is taken, as in vLLM: dividing by less overflows."""


class SamplingBatch:
    def __init__(
        self,
        sequences: Many[Sequence],
        *,
        eos_token_ids: Many[int],
        vocab_size: int,
        device: torch.device,
        num_ahead: Many[int] | None = None,
    ) -> None:
        """num_ahead: for each row, the drafts between the newest token of its sequence and the token it is about."""
        requests = [sequence.request for sequence in sequences]
        self._sequences, self._device = sequences, device
        self._num_ahead = np.zeros(len(sequences), dtype=np.int64) if num_ahead is None else np.array(num_ahead)
        self._bias = _places({row: request.logit_bias for row, request in enumerate(requests)}, device)
        self._forbidden = _Forbidden(requests, eos_token_ids, device=device)
        penalised = [row for row, request in enumerate(requests) if request.is_penalised]
        self._penalties = None
        if penalised:
            chosen = [sequences[row] for row in penalised]
            self._penalties = Penalties(penalised, chosen, vocab_size=vocab_size, device=device)
        drawn = [row for row, request in enumerate(requests) if request.temperature >= GREEDY_TEMPERATURE]
        self._drawn_rows = torch.tensor(drawn, device=device)
        self._draw = _Draw([requests[row] for row in drawn], vocab_size=vocab_size, device=device) if drawn else None
        """None: all rows are greedy."""
        self.logprob_rows = [row for row, request in enumerate(requests) if request.num_logprobs is not None]
        self.num_logprobs = [requests[row].num_logprobs or 0 for row in self.logprob_rows]

    def is_of(self, sequences: Many[Sequence]) -> bool:
        same_length = len(sequences) == len(self._sequences)
        return same_length and all(mine is other for mine, other in zip(self._sequences, sequences, strict=True))

    def adjusted(self, logits: Tensor) -> Tensor:
        """(num_rows, vocab_size), the input untouched. Order as in vLLM: bias, min_tokens, penalties."""
        num_outputs = self._num_outputs()
        forbidden = self._forbidden.places(num_outputs)
        if self._bias is None and forbidden is None and self._penalties is None:
            return logits
        scores = logits.clone()
        if self._bias is not None:
            rows, token_ids, values = self._bias
            scores[rows, token_ids] += values
        if forbidden is not None:
            scores[forbidden] = float("-inf")
        if self._penalties is not None:
            self._penalties.apply(scores)
        return scores

    def drawn(self, scores: Tensor, best_scores: Tensor, best: Tensor) -> Tensor:
        """(num_rows,): the best token of greedy rows, a drawn one of the others."""
        if self._draw is None:
            return best
        if len(self._drawn_rows) == len(best):
            return self._draw.tokens(scores, best_scores, self._num_outputs())
        rows, positions = self._drawn_rows, self._num_outputs()[self._drawn_rows.cpu().numpy()]
        tokens = self._draw.tokens(scores.index_select(0, rows), best_scores.index_select(0, rows), positions)
        return best.index_copy(0, rows, tokens)

    @property
    def drawn_rows(self) -> list[int]:
        """Those that are not greedy."""
        return self._drawn_rows.tolist()

    def probabilities(self, scores: Tensor, best_scores: Tensor) -> Tensor:
        """(num_drawn, vocab_size) float32 of the rows that are drawn, after temperature and filters."""
        assert self._draw is not None, "every row is greedy"
        rows = self._drawn_rows
        weights = self._draw.weights(scores.index_select(0, rows), best_scores.index_select(0, rows))
        return weights.div_(weights.sum(-1, keepdim=True))

    def noise(self, stream: np.uint64) -> Tensor:
        """(num_drawn,)"""
        assert self._draw is not None, "every row is greedy"
        return self._draw.noise(self._num_outputs()[self._drawn_rows.cpu().numpy()], stream).to(self._device)

    def _num_outputs(self) -> NDArray[np.int64]:
        known = [sequence.num_output_tokens for sequence in self._sequences]
        return np.array(known, dtype=np.int64) + self._num_ahead


class _Draw:
    def __init__(self, requests: Many[EngineRequest], *, vocab_size: int, device: torch.device) -> None:
        self._temperature = finite_float32([request.temperature for request in requests], device)[:, None]
        self._seeds = np.array([request.seed & MASK_64 for request in requests], dtype=np.uint64)
        self._filters = Filters(
            min_p=torch.tensor([request.min_p for request in requests], device=device),
            top_k=torch.tensor([min(max(request.top_k, 0), vocab_size) for request in requests], device=device),
            top_p=torch.tensor([request.top_p for request in requests], dtype=torch.float64, device=device),
            vocab_size=vocab_size,
        )

    def tokens(self, scores: Tensor, best_scores: Tensor, positions: NDArray[np.int64]) -> Tensor:
        return draw_tokens(self.weights(scores, best_scores), self.noise(positions, TOKENS).to(scores.device))

    def weights(self, scores: Tensor, best_scores: Tensor) -> Tensor:
        """(num_rows, vocab_size): probabilities relative to the best token's, 0 for what may not be drawn."""
        weights = (scores - best_scores[:, None]).div_(self._temperature).exp_()
        self._filters.apply(weights)
        return weights

    def noise(self, positions: NDArray[np.int64], stream: np.uint64) -> Tensor:
        return torch.from_numpy(uniform_noise(self._seeds, positions.astype(np.uint64), stream))


class _Forbidden:
    """What may not be chosen before min_tokens: end of sequence and the request's stop tokens, as in vLLM."""

    def __init__(self, requests: Many[EngineRequest], eos_token_ids: Many[int], *, device: torch.device) -> None:
        triples = [
            (row, token_id, request.min_tokens)
            for row, request in enumerate(requests)
            if request.min_tokens > 0
            for token_id in {*eos_token_ids, *request.stop_token_ids}
        ]
        self._rows, self._token_ids, self._until = np.array(triples, dtype=np.int64).reshape(-1, 3).T
        self._device = device

    def places(self, num_outputs: NDArray[np.int64]) -> tuple[Tensor, Tensor] | None:
        active = num_outputs[self._rows] < self._until
        if not active.any():
            return None
        rows, token_ids = torch.from_numpy(self._rows[active]), torch.from_numpy(self._token_ids[active])
        return rows.to(self._device), token_ids.to(self._device)


def _places(values: dict[int, dict[int, float]], device: torch.device) -> tuple[Tensor, Tensor, Tensor] | None:
    """Rows, token ids and values of a sparse matrix; None if it is empty."""
    triples = [(row, token_id, value) for row, by_token in values.items() for token_id, value in by_token.items()]
    if not triples:
        return None
    rows, token_ids, biases = zip(*triples, strict=True)
    return (
        torch.tensor(rows, device=device),
        torch.tensor(token_ids, device=device),
        finite_float32(biases, device),
    )
