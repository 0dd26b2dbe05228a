"""What only a vLLM server answers."""

from __future__ import annotations

from enginebay.recognition import METRICS_PATH, Answers, Recognition, metric_evidence, owner_evidence


def evidence(answers: Answers) -> str | None:
    return owner_evidence(answers, "vllm") or metric_evidence(answers, "vllm:")


RECOGNITION = Recognition(paths=(METRICS_PATH,), evidence=evidence)
