"""What only trtllm-serve answers, in each of its release lines.

Most tell it in their model list. Behind a proxy that writes a list of its own it is told by its Prometheus text, whose
names have had a prefix since 1.3 and two labels of their own before; without `return_perf_metrics` there is no such
text. What is left then is /metrics, which no other engine answers with a JSON list: it hands out each iteration once,
so that nobody asks it while anything else is left to ask.
"""

from __future__ import annotations

import msgspec

from enginebay.recognition import METRICS_PATH, Answers, Recognition, metric_evidence, owner_evidence

PROMETHEUS_PATH = "/prometheus/metrics"
_BEGINNINGS = ("trtllm_", "request_success_total{engine_type=", "e2e_request_latency_seconds_bucket{engine_type=")
"""Of the lines since 1.3, and of the first two series that 1.2 has after an answer."""


def evidence(answers: Answers) -> str | None:
    if owned := owner_evidence(answers, "tensorrt_llm"):
        return owned
    told = (metric_evidence(answers, beginning, path=PROMETHEUS_PATH) for beginning in _BEGINNINGS)
    return next(filter(None, told), None) or _iterations_evidence(answers)


def _iterations_evidence(answers: Answers) -> str | None:
    answer = answers.get(METRICS_PATH)
    if answer is None or answer.status != 200:
        return None
    try:
        msgspec.json.decode(answer.body, type=list[dict[str, object]])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return f"{METRICS_PATH} is a JSON list, of iterations"


RECOGNITION = Recognition(paths=(PROMETHEUS_PATH, METRICS_PATH), evidence=evidence)
