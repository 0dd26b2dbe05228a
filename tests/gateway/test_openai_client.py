"""The official client, unchanged, against a real server."""

import asyncio
from collections.abc import Iterator

import openai
import pytest
from running_server import RunningServer


@pytest.fixture
def client(server: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="EMPTY", max_retries=0, timeout=10) as client:
        yield client


def test_a_completion_has_text_finish_reason_and_usage(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt="one two three", max_tokens=4)
    assert answer.choices[0].text == "w0 w1 w2 w3 "
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 4, 7)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 1
    assert answer.id.startswith("cmpl-")
    assert answer.model == "tiny"


def test_a_completion_without_max_tokens_has_sixteen(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt="one")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16


def test_a_streamed_completion_is_the_same_text_in_pieces(client: openai.OpenAI) -> None:
    options: openai.types.chat.ChatCompletionStreamOptionsParam = {"include_usage": True}
    stream = client.completions.create(model="tiny", prompt="a b", max_tokens=3, stream=True, stream_options=options)
    *pieces, usage = list(stream)
    assert [piece.choices[0].text for piece in pieces] == ["w0 ", "w1 ", "w2 "]
    assert [piece.choices[0].finish_reason for piece in pieces] == [None, None, "length"]
    assert all(piece.usage is None for piece in pieces)
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.total_tokens == 5


def test_continuous_usage_counts_up_in_every_chunk(client: openai.OpenAI) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    stream = client.completions.create(model="tiny", prompt="a b", max_tokens=3, stream=True, stream_options=options)
    usages = [piece.usage for piece in stream]
    assert [usage.completion_tokens for usage in usages if usage is not None] == [1, 2, 3, 3]
    assert {usage.prompt_tokens for usage in usages if usage is not None} == {2}


def test_list_prompts_and_n_fan_out_and_a_shared_prompt_counts_once(
    client: openai.OpenAI, server: RunningServer
) -> None:
    answer = client.completions.create(model="tiny", prompt=["a b", "c d e"], n=2, max_tokens=2, seed=7)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert {choice.text for choice in answer.choices} == {"w0 w1 "}
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 8)
    requests = server.backend.requests[-4:]
    assert [request.prompt.text for request in requests] == ["a b", "a b", "c d e", "c d e"]
    assert [request.sampling.seed for request in requests] == [7, 8, 7, 8]
    assert len({request.request_id for request in requests}) == 4


def test_token_id_prompts_are_used_as_given(client: openai.OpenAI, server: RunningServer) -> None:
    client.completions.create(model="tiny", prompt=[5, 6, 7], max_tokens=1)
    assert server.backend.requests[-1].prompt.token_ids == (5, 6, 7)
    client.completions.create(model="tiny", prompt=[[1, 2], [3]], max_tokens=1)
    assert [request.prompt.token_ids for request in server.backend.requests[-2:]] == [(1, 2), (3,)]


def test_several_choices_stream_side_by_side(client: openai.OpenAI) -> None:
    options: openai.types.chat.ChatCompletionStreamOptionsParam = {"include_usage": True}
    stream = client.completions.create(model="tiny", prompt="a", n=3, max_tokens=3, stream=True, stream_options=options)
    texts = {0: "", 1: "", 2: ""}
    finished = set()
    usage = None
    for piece in stream:
        for choice in piece.choices:
            texts[choice.index] += choice.text
            if choice.finish_reason:
                finished.add(choice.index)
        usage = piece.usage or usage
    assert set(texts.values()) == {"w0 w1 w2 "}
    assert finished == {0, 1, 2}
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (1, 9)


def test_a_stop_string_ends_the_text_and_is_named(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt="a", max_tokens=9, stop=["w3", "nothing"])
    assert answer.choices[0].text == "w0 w1 w2 "
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].model_extra == {"stop_reason": "w3"}


def test_completion_logprobs_have_offsets_tokens_and_alternatives(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt="a", max_tokens=2, logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == ["w0 ", "w1 "]
    assert logprobs.text_offset == [0, 3]
    assert logprobs.token_logprobs == [-0.5, -0.5]
    assert logprobs.top_logprobs is not None
    assert logprobs.top_logprobs[0] == {"alt0": -1.0, "alt1": -2.0, "w0 ": -0.5}


def test_offsets_run_on_through_a_stream(client: openai.OpenAI) -> None:
    stream = client.completions.create(model="tiny", prompt="a", max_tokens=3, logprobs=0, stream=True)
    offsets = [piece.choices[0].logprobs.text_offset for piece in stream if piece.choices[0].logprobs]
    assert offsets == [[0], [3], [6]]


@pytest.mark.parametrize("streams", [False, True])
def test_echo_gives_the_prompt_before_the_answer_with_its_logprobs(client: openai.OpenAI, streams: bool) -> None:
    answer = client.completions.create(model="tiny", prompt="a bb", max_tokens=2, echo=True, logprobs=0, stream=streams)
    choices = [piece.choices[0] for piece in answer] if streams else [answer.choices[0]]
    assert "".join(choice.text for choice in choices) == "a bbw0 w1 "
    assert [token for choice in choices for token in choice.logprobs.tokens] == ["a", "bb", "w0 ", "w1 "]
    assert choices[0].logprobs.token_logprobs[:2] == [None, -2.0]


def test_echo_of_token_ids_is_the_engines_text_of_them(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt=[4, 5], max_tokens=1, echo=True)
    assert answer.choices[0].text == "t4t5w0 "


def test_a_prompt_can_be_scored_without_generating(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt="a b", max_tokens=0, echo=True, logprobs=0)
    assert answer.choices[0].text == "a b"
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.token_logprobs == [None, -2.0]


def test_token_ids_are_returned_on_request(client: openai.OpenAI) -> None:
    extra = {"return_token_ids": True, "return_tokens_as_token_ids": True}
    answer = client.completions.create(model="tiny", prompt="a b", max_tokens=2, logprobs=0, extra_body=extra)
    choice = answer.choices[0]
    assert choice.model_extra is not None
    assert choice.model_extra["token_ids"] == [0, 1]
    assert choice.model_extra["prompt_token_ids"] == [100, 101]
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["token_id:0", "token_id:1"]


def test_a_chat_answers_with_a_message(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hello you"}], max_completion_tokens=3
    )
    message = answer.choices[0].message
    assert (message.role, message.content) == ("assistant", "w0 w1 w2 ")
    assert answer.id.startswith("chatcmpl-")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def test_a_chat_without_max_tokens_has_the_rest_of_the_context(client: openai.OpenAI, server: RunningServer) -> None:
    client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "one two three"}])
    assert server.backend.requests[-1].sampling.max_tokens == 61


def test_a_streamed_chat_begins_with_the_role_alone(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hi"}], max_tokens=2, stream=True
    )
    first, *pieces = [piece.choices[0] for piece in stream]
    assert (first.delta.role, first.delta.content, first.finish_reason) == ("assistant", "", None)
    assert [piece.delta.content for piece in pieces] == ["w0 ", "w1 "]
    assert pieces[-1].finish_reason == "length"


def test_chat_logprobs_have_bytes_and_alternatives(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hi"}], max_tokens=1, logprobs=True, top_logprobs=1
    )
    assert answer.choices[0].logprobs is not None
    [entry] = answer.choices[0].logprobs.content or []
    assert (entry.token, entry.logprob, entry.bytes) == ("w0 ", -0.5, [119, 48, 32])
    assert [(top.token, top.logprob) for top in entry.top_logprobs] == [("alt0", -1.0)]


def test_an_assistants_answer_can_be_sent_back(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "hi"}]
    answer = client.chat.completions.create(model="tiny", messages=messages, max_tokens=1)
    replayed = [*messages, answer.choices[0].message.model_dump(), {"role": "user", "content": "and now"}]
    again = client.chat.completions.create(model="tiny", messages=replayed, max_tokens=1)
    assert again.choices[0].message.content == "w0 "


def test_text_parts_reach_the_backend_as_parts(client: openai.OpenAI, server: RunningServer) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": parts}], max_tokens=1)
    [message] = server.backend.requests[-1].prompt.messages
    assert [part.text for part in message.content] == ["one", "two"]


def test_models_are_listed_with_their_context(client: openai.OpenAI) -> None:
    [model] = client.models.list().data
    assert (model.id, model.owned_by) == ("tiny", "enginebay")
    assert model.model_extra is not None
    assert model.model_extra["max_model_len"] == 64
    assert client.models.retrieve("tiny").id == "tiny"


def test_fields_without_effect_are_accepted(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "hi"}],
        max_tokens=1,
        user="someone",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
    )
    assert answer.choices[0].message.content == "w0 "


def test_a_request_that_is_not_streamed_is_asked_as_final(client: openai.OpenAI, server: RunningServer) -> None:
    client.completions.create(model="tiny", prompt="a", max_tokens=1)
    assert server.backend.requests[-1].delivery == "final"
    list(client.completions.create(model="tiny", prompt="a", max_tokens=1, stream=True))
    assert server.backend.requests[-1].delivery == "stream"


def test_stream_interval_coalesces_all_but_the_first_token(client: openai.OpenAI) -> None:
    stream = client.completions.create(
        model="tiny", prompt="a", max_tokens=6, stream=True, extra_body={"stream_interval": 2}
    )
    assert [piece.choices[0].text for piece in stream] == ["w0 ", "w1 w2 ", "w3 w4 ", "w5 "]


@pytest.mark.parametrize(
    ("fields", "error_class", "param", "code"),
    [
        ({"model": "other", "prompt": "a"}, openai.NotFoundError, "model", "model_not_found"),
        ({"prompt": "a", "max_tokens": -1}, openai.BadRequestError, "max_tokens", "invalid_request"),
        ({"prompt": "a", "top_p": 0}, openai.BadRequestError, "top_p", "invalid_request"),
        ({"prompt": "a " * 70, "max_tokens": 1}, openai.BadRequestError, "prompt", "context_length_exceeded"),
        ({"prompt": "a", "suffix": "b"}, openai.BadRequestError, "suffix", "unsupported_feature"),
        ({"prompt": "a", "best_of": 3}, openai.BadRequestError, "best_of", "unsupported_feature"),
        ({"prompt": "a", "n": 1000}, openai.BadRequestError, "n", "invalid_request"),
        ({"prompt": "break-first"}, openai.InternalServerError, None, "engine_step_failed"),
        ({"prompt": "crash"}, openai.InternalServerError, None, "backend_error"),
    ],
)
def test_errors_are_the_clients_typed_ones(
    client: openai.OpenAI, fields: dict, error_class: type[openai.APIStatusError], param: str | None, code: str
) -> None:
    with pytest.raises(error_class) as caught:
        client.completions.create(**{"model": "tiny", **fields})
    assert (caught.value.param, caught.value.code) == (param, code)


def test_an_error_after_the_first_token_is_an_event_that_the_client_raises(client: openai.OpenAI) -> None:
    stream = client.completions.create(model="tiny", prompt="break", max_tokens=9, stream=True)
    assert [next(stream).choices[0].text for _ in range(2)] == ["w0 ", "w1 "]
    with pytest.raises(openai.APIError, match="step 2 failed"):
        next(stream)


def test_an_error_before_the_first_token_of_a_stream_has_its_own_status(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError):
        client.completions.create(model="tiny", prompt="break-first", stream=True)


def test_the_asynchronous_client_runs_many_streams_at_once(server: RunningServer) -> None:
    async def one(client: openai.AsyncOpenAI) -> str:
        stream = await client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "hi"}], max_tokens=5, stream=True
        )
        return "".join([piece.choices[0].delta.content or "" async for piece in stream])

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="EMPTY", max_retries=0) as client:
            assert set(await asyncio.gather(*(one(client) for _ in range(20)))) == {"w0 w1 w2 w3 w4 "}

    asyncio.run(main())
