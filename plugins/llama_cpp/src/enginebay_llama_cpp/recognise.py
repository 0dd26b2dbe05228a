"""What only llama-server answers."""

from __future__ import annotations

from enginebay.recognition import METRICS_PATH, Answers, Recognition, json_object, metric_evidence, owner_evidence


def evidence(answers: Answers) -> str | None:
    if owned := owner_evidence(answers, "llamacpp"):
        return owned
    if {"default_generation_settings", "total_slots"} <= json_object(answers, "/props").keys():
        return "/props tells its slots and generation settings"
    return metric_evidence(answers, "llamacpp:")


RECOGNITION = Recognition(paths=("/props", METRICS_PATH), evidence=evidence)
