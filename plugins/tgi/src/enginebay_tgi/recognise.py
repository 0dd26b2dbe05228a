"""What only a TGI server answers. In its model list the owner is the model itself, which says nothing."""

from __future__ import annotations

from enginebay.recognition import METRICS_PATH, Answers, Recognition, json_object, metric_evidence

ROUTER = "text-generation-router"


def evidence(answers: Answers) -> str | None:
    if json_object(answers, "/info").get("router") == ROUTER:
        return f"/info names its router {ROUTER}"
    return metric_evidence(answers, "tgi_")


RECOGNITION = Recognition(paths=("/info", METRICS_PATH), evidence=evidence)
