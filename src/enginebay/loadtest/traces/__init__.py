"""Recorded traffic without its texts: when requests came, how long they were, and which beginnings they shared.

trace      what all formats have in common, and the door: `read_trace`
mooncake   JSONL of Mooncake (read and written)      burstgpt   CSV of BurstGPT      azure   CSV of Azure's LLM traces
"""

from enginebay.loadtest.traces.read import TRACE_FORMATS, TraceFormat, read_trace
from enginebay.loadtest.traces.trace import Trace, TracedRequest

__all__ = ["TRACE_FORMATS", "Trace", "TraceFormat", "TracedRequest", "read_trace"]
