"""What only trtllm-serve answers. Its /metrics hands out each iteration once, and is left to the adapter."""

from __future__ import annotations

from enginebay.recognition import Answers, Recognition, metric_evidence, owner_evidence

PROMETHEUS_PATH = "/prometheus/metrics"


def evidence(answers: Answers) -> str | None:
    return owner_evidence(answers, "tensorrt_llm") or metric_evidence(answers, "trtllm_", path=PROMETHEUS_PATH)


RECOGNITION = Recognition(paths=(PROMETHEUS_PATH,), evidence=evidence)
