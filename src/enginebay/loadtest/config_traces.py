"""The traces that a `bench:` section names, each read once."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from enginebay.config.bench import BenchConfig
from enginebay.config.bench_arrivals import TraceArrivals
from enginebay.config.bench_workloads import TraceConfig
from enginebay.errors import LoadTestError
from enginebay.loadtest.traces import Trace, read_trace


class ConfigTraces:
    """Both properties raise LoadTestError, where there is no such trace or it is none."""

    def __init__(self, settings: BenchConfig) -> None:
        self._settings = settings

    @cached_property
    def of_workload(self) -> Trace:
        """Without what the section leaves out."""
        config = self._settings.workload
        if not isinstance(config, TraceConfig):
            raise LoadTestError(_NO_PATH)
        end_s = None if config.duration_s is None else config.start_s + config.duration_s
        trace = read_trace(config.path, config.format, block_tokens=config.block_tokens).between(config.start_s, end_s)
        kept = trace.fitting(max_input_tokens=config.max_input_tokens, max_output_tokens=config.max_output_tokens)
        if not kept.requests:
            raise LoadTestError(f"{config.path}: none of its requests is as short as asked, within the time asked")
        return kept

    @cached_property
    def of_arrivals(self) -> Trace:
        """The workload's own, with what that leaves out, where the arrivals name no other."""
        arrivals = self._settings.arrivals
        if not isinstance(arrivals, TraceArrivals):
            raise LoadTestError(_NO_PATH)
        trace = (
            self.of_workload
            if arrivals.path is None
            else read_trace(arrivals.path, arrivals.format, block_tokens=arrivals.block_tokens)
        )
        return trace.first(arrivals.max_requests)


def path_of_arrivals(settings: BenchConfig, arrivals: TraceArrivals) -> Path:
    if arrivals.path is not None:
        return arrivals.path
    if isinstance(settings.workload, TraceConfig):
        return settings.workload.path
    raise LoadTestError(_NO_PATH)


_NO_PATH = "arrivals of a trace need the path of one, unless the workload is a trace"
