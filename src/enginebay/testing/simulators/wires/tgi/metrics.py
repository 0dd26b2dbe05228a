"""TGI's own metric names. Counters have no `_total`; a series appears with its first observation."""

from __future__ import annotations

from collections import Counter

from enginebay.testing.simulators.engine import SimulatedEngine
from enginebay.testing.simulators.engine_metrics import Histogram
from enginebay.testing.simulators.exposition import Exposition

_DURATION_BOUNDS = tuple(0.0001 * 1.5**power for power in range(1, 36))
_BATCH_BOUNDS = tuple(range(1, 1025))
_NUM_TOKEN_BOUNDS = 100
_DURATIONS = (
    "tgi_request_duration",
    "tgi_request_validation_duration",
    "tgi_request_queue_duration",
    "tgi_request_inference_duration",
    "tgi_request_mean_time_per_token_duration",
)


class TgiMetrics:
    def __init__(self, engine: SimulatedEngine, *, max_input_tokens: int, max_total_tokens: int) -> None:
        self._engine = engine
        self._histograms = {name: Histogram(_DURATION_BOUNDS) for name in _DURATIONS}
        for name, limit in (
            ("tgi_request_generated_tokens", max_total_tokens),
            ("tgi_request_input_length", max_input_tokens),
            ("tgi_request_max_new_tokens", max_total_tokens),
        ):
            steps = (limit / _NUM_TOKEN_BOUNDS * step for step in range(1, _NUM_TOKEN_BOUNDS + 1))
            self._histograms[name] = Histogram(tuple(steps))
        self._batch_sizes = engine.metrics.track("batch_size", _BATCH_BOUNDS)
        self.num_requests = 0
        self.num_successes = 0
        self.num_stopped = 0
        """Ended by the wire at a stop sequence: no client has dropped these."""
        self.failures: Counter[str] = Counter()

    def observe(self, name: str, value: float) -> None:
        self._histograms[name].observe(value)

    def text(self) -> bytes:
        exposition = Exposition()
        self._write_requests(exposition)
        self._write_batches(exposition)
        for name, histogram in self._histograms.items():
            if histogram.count:
                exposition.histogram(name, histogram)
                exposition.raw("")
        return str(exposition).encode()

    def _write_requests(self, exposition: Exposition) -> None:
        for name, value in (("tgi_request_count", self.num_requests), ("tgi_request_success", self.num_successes)):
            if value:
                exposition.counter(name, value)
                exposition.raw("")
        failures = {**self.failures, "dropped": self._engine.metrics.num_finished["abort"] - self.num_stopped}
        samples = [({"err": kind}, float(number)) for kind, number in failures.items() if number]
        if samples:
            exposition.counters("tgi_request_failure", samples)
            exposition.raw("")

    def _write_batches(self, exposition: Exposition) -> None:
        engine = self._engine
        if not self.num_requests:
            return
        exposition.gauge("tgi_queue_size", engine.num_waiting)
        exposition.gauge("tgi_batch_current_size", engine.num_running)
        exposition.gauge("tgi_batch_current_max_tokens", engine.num_used_blocks * engine.profile.block_size)
        exposition.raw("")
        if self._batch_sizes.count:
            steps = [({"method": "decode"}, float(engine.metrics.num_steps))]
            exposition.counters("tgi_batch_inference_count", steps)
            exposition.counters("tgi_batch_inference_success", steps)
            exposition.histogram("tgi_batch_next_size", self._batch_sizes)
            exposition.raw("")
