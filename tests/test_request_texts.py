from dataclasses import replace

import pytest

from enginebay.errors import InvalidRequest
from enginebay.request_checks import check_request
from enginebay.request_texts import check_prompt_texts
from enginebay.types import (
    BackendInfo,
    Capabilities,
    Chat,
    Feature,
    GenerationRequest,
    Message,
    ResponseFormat,
    SamplingParams,
    Text,
    TextPart,
)

INFO = BackendInfo(kind="k", name="n", model="m", capabilities=Capabilities(features=frozenset(Feature)))
HALF = "half of \ud83d"
PLAIN = GenerationRequest(request_id="1", prompt=Text("né 🙂"), sampling=SamplingParams(max_tokens=4))
CHAT = Chat((Message("user", "né 🙂"),))


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        (Text(HALF), "prompt"),
        (Chat((Message("user", "a"), Message("user", HALF))), "messages[1].content"),
        (Chat((Message("user", (TextPart("a"), TextPart(HALF))),)), "messages[0].content"),
        (Chat((Message("user", "a", name=HALF),)), "messages[0].name"),
        (Chat((Message("user", None, tool_calls=({"function": {"name": HALF}},)),)), "messages[0].tool_calls"),
        (replace(CHAT, template=HALF), "chat_template"),
        (replace(CHAT, template_kwargs={"a": [{HALF: 1}]}), "chat_template_kwargs"),
        (replace(CHAT, tools=({"type": HALF},)), "tools"),
    ],
)
def test_half_a_character_in_a_prompt_is_refused_by_its_place(prompt: Text | Chat, field: str) -> None:
    with pytest.raises(InvalidRequest, match="half of one") as caught:
        check_request(replace(PLAIN, prompt=prompt), INFO)
    assert caught.value.field == field
    with pytest.raises(InvalidRequest, match="half of one"):
        check_prompt_texts(prompt)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"sampling": SamplingParams(max_tokens=4, stop=("a", HALF))}, "stop"),
        ({"cache_salt": HALF}, "cache_salt"),
        ({"adapter": HALF}, "adapter"),
        ({"request_id": HALF}, "request_id"),
        ({"response_format": ResponseFormat(type="regex", schema=HALF)}, "response_format"),
    ],
)
def test_half_a_character_in_a_field_is_refused_by_its_name(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest, match="half of one") as caught:
        check_request(replace(PLAIN, **changes), INFO)
    assert caught.value.field == field


def test_whole_characters_of_every_script_are_taken() -> None:
    check_request(PLAIN, INFO)
    check_request(replace(PLAIN, prompt=replace(CHAT, tools=({"deep": [{"né": "🙂"}] * 3},))), INFO)


def test_a_tool_of_any_depth_is_looked_through() -> None:
    deep: dict[str, object] = {"leaf": HALF}
    for _ in range(5_000):
        deep = {"deeper": deep}
    with pytest.raises(InvalidRequest, match="half of one"):
        check_prompt_texts(replace(CHAT, tools=(deep,)))
