"""Every request field that vLLM documents is accepted or refused by its own name; none is unknown."""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from running_server import RunningServer
from scripted_backend import ALL_BUT_STRUCTURE, ScriptedBackend

from enginebay.types import Feature

CONTRACT = Path(__file__).parents[1] / "data" / "contracts" / "vllm.yaml"
ENDPOINTS = {
    endpoint["path"]: endpoint
    for endpoint in YAML(typ="safe").load(CONTRACT.read_text())["http"]["endpoints"]
    if endpoint["method"] == "POST"
}
COMPLETION_FIELDS = list(ENDPOINTS["/v1/completions"]["request"])
DIFFERENCES = ENDPOINTS["/v1/chat/completions"]["request_differences"]
CHAT_FIELDS = sorted({*COMPLETION_FIELDS, *DIFFERENCES, "tool_choice"} - {"prompt"})
TOKENIZE_FIELDS = list(ENDPOINTS["/tokenize"]["request"])

COMPLETION = {"prompt": "a b", "max_tokens": 4}
CHAT = {"messages": [{"role": "user", "content": "a b"}], "max_tokens": 4}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
VALUES: dict[str, tuple[Any, dict[str, Any]]] = {
    # field: (a value that asks for something, what must stand beside it)
    "model": ("tiny", {}),
    "prompt": (["a", "b"], {}),
    "messages": (CHAT["messages"], {}),
    "max_tokens": (3, {}),
    "max_completion_tokens": (4, {}),
    "min_tokens": (2, {}),
    "temperature": (0.5, {}),
    "top_p": (0.9, {}),
    "top_k": (5, {}),
    "min_p": (0.1, {}),
    "presence_penalty": (0.5, {}),
    "frequency_penalty": (-0.5, {}),
    "repetition_penalty": (1.1, {}),
    "seed": (3, {}),
    "stop": ("w1", {}),
    "stop_token_ids": ([1], {}),
    "include_stop_str_in_output": (True, {"stop": ["w1"]}),
    "ignore_eos": (True, {}),
    "n": (2, {}),
    "echo": (True, {}),
    "logprobs": (2, {}),
    "top_logprobs": (2, {"logprobs": True}),
    "prompt_logprobs": (1, {}),
    "logit_bias": ({"5": 1.0}, {}),
    "skip_special_tokens": (False, {}),
    "spaces_between_special_tokens": (False, {"skip_special_tokens": False}),
    "add_special_tokens": (False, {}),
    "truncate_prompt_tokens": (1, {}),
    "stream": (False, {}),
    "stream_options": ({"include_usage": True, "continuous_usage_stats": True}, {"stream": True}),
    "return_token_ids": (True, {}),
    "return_tokens_as_token_ids": (True, {}),
    "priority": (-1, {}),
    "request_id": ("mine", {}),
    "cache_salt": ("salt", {}),
    "response_format": ({"type": "json_object"}, {}),
    "structured_outputs": ({"choice": ["a", "b"]}, {}),
    "stream_interval": (2, {"stream": True}),
    "add_generation_prompt": (False, {}),
    "continue_final_message": (True, {}),
    "chat_template": ("{{ messages }}", {}),
    "chat_template_kwargs": ({"enable_thinking": False}, {}),
    "tools": ([TOOL], {}),
    "tool_choice": ("auto", {"tools": [TOOL]}),
}
REFUSED_BY_NAME = {"response_format", "structured_outputs", "tools", "spaces_between_special_tokens"}
REFUSED_IN_CHAT = REFUSED_BY_NAME | {"echo", "tool_choice"}


def test_the_contract_lists_the_fields_that_are_tried() -> None:
    assert set(COMPLETION_FIELDS) | set(CHAT_FIELDS) == set(VALUES)


def send(server: RunningServer, path: str, fields: dict[str, Any]) -> tuple[int, str | None]:
    status, _, body = server.exchange("POST", path, json.dumps(fields).encode())
    return status, json.loads(body)["error"]["param"] if status != 200 else None


@pytest.mark.parametrize("field", COMPLETION_FIELDS)
def test_a_completion_field_is_served_or_refused_by_name(server: RunningServer, field: str) -> None:
    value, beside = VALUES[field]
    expected = (400, field) if field in REFUSED_BY_NAME else (200, None)
    assert send(server, "/v1/completions", {**COMPLETION, **beside, field: value}) == expected


@pytest.mark.parametrize("field", CHAT_FIELDS)
def test_a_chat_field_is_served_or_refused_by_name(server: RunningServer, field: str) -> None:
    value, beside = VALUES[field] if field != "logprobs" else (True, {})
    status, param = send(server, "/v1/chat/completions", {**CHAT, **beside, field: value})
    named = "tools" if field == "tool_choice" else field
    assert (status, param) == ((400, named) if field in REFUSED_IN_CHAT else (200, None))


@pytest.mark.parametrize("field", COMPLETION_FIELDS)
def test_null_means_that_the_field_was_left_out(server: RunningServer, field: str) -> None:
    expected = (400, "prompt") if field == "prompt" else (200, None)
    assert send(server, "/v1/completions", {**COMPLETION, field: None}) == expected


@pytest.mark.parametrize("field", TOKENIZE_FIELDS)
def test_a_tokenize_field_is_served_or_refused_by_name(server: RunningServer, field: str) -> None:
    value = {"model": "tiny", "prompt": "a b", "messages": CHAT["messages"]}.get(field, True)
    fields = {field: value} if field == "messages" else {"prompt": "a b", field: value}
    expected = (400, field) if field == "return_token_strs" else (200, None)
    assert send(server, "/tokenize", fields) == expected


FEATURE_OF_FIELD = {
    "top_k": Feature.TOP_K,
    "min_p": Feature.MIN_P,
    "presence_penalty": Feature.PRESENCE_PENALTY,
    "frequency_penalty": Feature.FREQUENCY_PENALTY,
    "repetition_penalty": Feature.REPETITION_PENALTY,
    "seed": Feature.SEED,
    "stop": Feature.STOP,
    "stop_token_ids": Feature.STOP_TOKEN_IDS,
    "ignore_eos": Feature.IGNORE_EOS,
    "min_tokens": Feature.MIN_TOKENS,
    "logprobs": Feature.LOGPROBS,
    "prompt_logprobs": Feature.PROMPT_LOGPROBS,
    "logit_bias": Feature.LOGIT_BIAS,
    "truncate_prompt_tokens": Feature.TRUNCATE_PROMPT,
    "priority": Feature.PRIORITY,
    "cache_salt": Feature.CACHE_SALT,
    "return_token_ids": Feature.OUTPUT_TOKEN_IDS,
}


def test_a_backend_that_can_do_little_refuses_each_field_by_name() -> None:
    little = ALL_BUT_STRUCTURE - set(FEATURE_OF_FIELD.values())
    with RunningServer(lambda: ScriptedBackend(features=little)) as server:
        for field in FEATURE_OF_FIELD:
            value, beside = VALUES[field]
            assert send(server, "/v1/completions", {**COMPLETION, **beside, field: value}) == (400, field)
