"""The metrics of llama-server, with six significant digits and without histograms."""

from __future__ import annotations

from enginebay.testing.simulators.engine import SimulatedEngine
from enginebay.testing.simulators.exposition import Exposition


class LlamaCppMetrics:
    def __init__(self, engine: SimulatedEngine) -> None:
        self._engine = engine
        track = engine.metrics.track
        self._prefill_s, self._decode_s = track("prefill_s", ()), track("decode_s", ())
        self._batch_size = track("batch_size", ())

    def text(self) -> str:
        text, metrics = Exposition(), self._engine.metrics
        prefill_s, decode_s = self._prefill_s.sum, self._decode_s.sum
        num_computed = metrics.num_prompt_tokens - metrics.num_prefix_hits
        counters = {
            "prompt_tokens_total": num_computed,
            "prompt_tokens_cached_total": metrics.num_prefix_hits,
            "prompt_seconds_total": prefill_s,
            "tokens_predicted_total": metrics.num_output_tokens,
            "tokens_predicted_seconds_total": decode_s,
            "n_decode_total": metrics.num_steps,
            "n_tokens_max": 0,
            "spec_decode_num_draft_tokens_total": 0,
            "spec_decode_num_accepted_tokens_total": 0,
            "spec_decode_num_drafts_total": 0,
        }
        gauges = {
            "prompt_tokens_seconds": num_computed / prefill_s if prefill_s else 0,
            "predicted_tokens_seconds": metrics.num_output_tokens / decode_s if decode_s else 0,
            "requests_processing": self._engine.num_running,
            "requests_deferred": self._engine.num_waiting,
            "n_busy_slots_per_decode": self._batch_size.sum / metrics.num_steps if metrics.num_steps else 0,
        }
        for kind, values in (("counter", counters), ("gauge", gauges)):
            for name, value in values.items():
                text.raw(f"# TYPE llamacpp:{name} {kind}")
                text.raw(f"llamacpp:{name} {value:g}")
        return str(text)
