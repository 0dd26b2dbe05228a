"""/generate, /health, /metrics, /tokenize, /v1/models."""

import json
import math
from urllib.parse import urlencode

import pytest
from prometheus_client.parser import text_string_to_metric_families
from running_server import RunningServer
from scripted_backend import ScriptedBackend

from enginebay.errors import StartFailed
from enginebay.quantities import SERVING
from enginebay.types import Health, HealthState


def test_generate_takes_a_json_body_with_the_lessons_defaults(server: RunningServer) -> None:
    status, answer = server.post("/generate", {"prompt": "a", "max_tokens": 3})
    assert (status, answer) == (200, {"text": "w0 w1 w2 "})
    sampling = server.backend.requests[-1].sampling
    assert (sampling.temperature, sampling.top_p) == (0.8, 0.95)


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_generate_takes_query_parameters(server: RunningServer, method: str) -> None:
    query = urlencode({"prompt": "grüß dich", "max_tokens": 2, "temperature": 0})
    status, _, body = server.exchange(method, f"/generate?{query}")
    assert (status, json.loads(body)) == (200, {"text": "w0 w1 "})
    assert server.backend.requests[-1].prompt.text == "grüß dich"
    assert server.backend.requests[-1].sampling.temperature == 0


def test_generate_asks_for_two_hundred_tokens_unless_told(server: RunningServer) -> None:
    status, answer = server.post("/generate", {"prompt": "a"})
    assert status == 400
    assert "200 output tokens" in answer["detail"]


@pytest.mark.parametrize("prompt", ["break-first", "crash"])
def test_a_failure_of_generate_is_logged_and_answered_with_detail(server: RunningServer, prompt: str) -> None:
    status, answer = server.post("/generate", {"prompt": prompt, "max_tokens": 3})
    assert status == 500
    assert set(answer) == {"detail"}
    assert '"path": "/generate"' in server.log.getvalue()


@pytest.mark.parametrize(
    "query", ["", "prompt=a&max_tokens=x", "prompt=a&colour=red", "prompt=a&temperature=nan", "prompt=a&max_tokens=-1"]
)
def test_a_wrong_query_is_refused_with_detail(server: RunningServer, query: str) -> None:
    status, _, body = server.exchange("POST", f"/generate?{query}")
    assert status == 400
    assert set(json.loads(body)) == {"detail"}


def test_health_tells_what_the_backend_tells(server: RunningServer) -> None:
    for path in ("/health", "/health/ready"):
        assert server.get(path) == (200, {"status": "healthy"})
    server.backend.health_now = Health(HealthState.DEAD, "the engine is gone")
    try:
        for path in ("/health", "/health/ready"):
            assert server.get(path) == (503, {"status": "dead", "reason": "the engine is gone"})
        assert server.get("/health/live")[0] == 200
    finally:
        server.backend.health_now = Health(HealthState.READY)


def test_the_server_answers_while_the_model_loads_and_serves_once_it_has() -> None:
    with RunningServer(lambda: ScriptedBackend(holds_start=True)) as server:
        assert server.get("/health/live") == (200, {"status": "alive"})
        assert server.get("/health") == (503, {"status": "loading", "reason": "the model is loading"})
        status, answer = server.post("/v1/completions", {"prompt": "a"})
        assert (status, answer["error"]["code"]) == (503, "not_ready")
        assert "llm_requests_total" in server.exchange("GET", "/metrics")[2].decode()
        server.loop.call_soon_threadsafe(server.backend.may_start.set)
        server.run(server.app.served.models.wait_until_ready())
        assert server.post("/v1/completions", {"prompt": "a"})[0] == 200
    assert server.backend.num_closed == 1


def test_a_start_that_fails_is_told_without_the_engines_log() -> None:
    def failing() -> ScriptedBackend:
        backend = ScriptedBackend(holds_start=True)
        backend.start_failure = StartFailed("no memory", likely_cause="too large", log_tail=["/home/secret/path"])
        return backend

    with RunningServer(failing) as server:
        server.loop.call_soon_threadsafe(server.backend.may_start.set)
        with pytest.raises(StartFailed):
            server.run(server.app.served.models.wait_until_ready())
        assert server.get("/health") == (503, {"status": "dead", "reason": "start failed: no memory"})
        status, answer = server.post("/v1/completions", {"prompt": "a"})
        assert (status, answer["error"]["code"]) == (503, "start_failed")
        assert "secret" not in json.dumps(answer)


def test_a_server_that_stops_while_its_model_loads_closes_the_backend() -> None:
    with RunningServer(lambda: ScriptedBackend(holds_start=True)) as server:
        pass
    assert server.backend.num_closed == 1


def test_metrics_have_the_lessons_names_and_parse(server: RunningServer) -> None:
    server.post("/v1/completions", {"prompt": "a b", "max_tokens": 4})
    _, headers, text = server.exchange("GET", "/metrics")
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = {
        sample.name: sample
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if sample.labels.get("outcome") in (None, "length")
    }
    for name in (
        "llm_requests_total",
        "llm_request_latency_seconds_count",
        "llm_time_to_first_token_seconds_sum",
        "llm_inter_token_latency_seconds_bucket",
        "llm_tokens_generated_total",
        "llm_tokens_per_second",
        "llm_batch_size",
        "llm_queue_depth",
        "llm_kv_cache_usage_ratio",
        "enginebay_engine_steps_total",
        "scripted_oddity",
    ):
        labels = {"backend": "scripted", "model": "tiny", "replica": "0"}
        assert samples[name].labels.items() >= labels.items()
    assert samples["llm_requests_in_flight"].value == 0
    assert samples["llm_queue_time_seconds_sum"].value == 0.7
    assert samples["llm_tokens_generated_total"].value >= 4
    assert math.isclose(samples["llm_kv_cache_usage_ratio"].value, 0.25)
    assert "llm_gpu_memory_bytes" not in samples  # this engine does not tell: absent, not zero
    families = {family.name for family in text_string_to_metric_families(text.decode())}
    known = {quantity.prometheus_name.removesuffix("_total") for quantity in SERVING}
    assert known - families == {"llm_gpu_memory_bytes", "llm_prefix_cache_queries", "llm_prefix_cache_hits"}


def test_tokenize_gives_the_engines_token_ids(server: RunningServer) -> None:
    status, answer = server.post("/tokenize", {"model": "tiny", "prompt": "a b c"})
    assert (status, answer) == (200, {"count": 3, "max_model_len": 64, "tokens": [0, 1, 2], "token_strs": None})
    assert server.post("/tokenize", {"messages": [{"role": "user", "content": "a b"}]})[1]["count"] == 2
    assert server.post("/tokenize", {"model": "other", "prompt": "a"})[0] == 404
    assert server.post("/tokenize", {})[0] == 400


def test_an_unknown_model_is_not_found(server: RunningServer) -> None:
    status, answer = server.get("/v1/models/other")
    assert (status, answer["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("query", "body", "problem"),
    [
        ("prompt=a", b'{"prompt": "a"}', "both"),
        ("prompt=a&prompt=b", b"", "'prompt' was given twice"),
        ("prompt=%ff", b"", "UTF-8"),
        ("&".join(f"a{number}=1" for number in range(100)), b"", "more than 64"),
    ],
)
def test_generate_refuses_what_it_would_have_to_choose_from(
    server: RunningServer, query: str, body: bytes, problem: str
) -> None:
    status, _, answer = server.exchange("POST", f"/generate?{query}", body)
    assert status == 400
    assert problem in json.loads(answer)["detail"]
