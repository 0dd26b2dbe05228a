"""Whose tokenizer reads the texts of prompts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing

from enginebay.backends.http_engine.api import JSON_HEADERS
from enginebay.clock import MonotonicClock
from enginebay.testing.simulators import Simulator, tokens
from enginebay.testing.simulators.vocabulary import OWN_VOCABULARY, ModelVocabulary, vocabulary_of
from enginebay.testing.simulators.wires.llama_cpp.bodies import NativeBody, Refusal, prompt_ids
from enginebay.wire.http_client import HttpClient

TEXT = "a fox\u2764"
BEGIN = 256
COMMANDS = {
    "vllm": ["{place}", "--served-model-name", "m"],
    "sglang": ["--model-path", "{place}", "--served-model-name", "m"],
    "tensorrt_llm": ["{place}"],
    "tgi": ["--model-id", "{place}"],
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tokenizer of single bytes that begins each text with a token of its own."""
    letters = {letter: index for index, letter in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Tokenizer(BPE({**letters, "<begin>": BEGIN}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    tokenizer.add_special_tokens(["<begin>"])
    tokenizer.post_processor = TemplateProcessing(single="<begin> $A", special_tokens=[("<begin>", BEGIN)])
    tokenizer.enable_truncation(4)  # as some training runs leave it in the file
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


async def asked(simulator: Simulator, path: str, body: object) -> Any:
    client = HttpClient(simulator.url, clock=MonotonicClock())
    try:
        answer = await client.request("POST", path, body=msgspec.json.encode(body), headers=JSON_HEADERS)
        assert answer.status == 200, answer.body
        return msgspec.json.decode(answer.body)
    finally:
        await client.aclose()


def test_tgis_simulator_tells_the_models_tokens_with_their_characters(model: Path) -> None:
    async def main() -> None:
        async with Simulator("tgi", ["--model-id", str(model)], port=0) as simulator:
            first, *others = await asked(simulator, "/tokenize", {"inputs": TEXT})
            assert first == {"id": BEGIN, "text": "", "start": 0, "stop": 0}
            assert "".join(each["text"] for each in others[:5]) == TEXT[:5]
            assert others[-1] == {"id": others[-1]["id"], "text": TEXT[-1], "start": 5, "stop": 6}

    asyncio.run(main())


def test_a_models_vocabulary_is_the_tokenizers_whole_and_back(model: Path) -> None:
    vocabulary = vocabulary_of(model)
    ids = vocabulary.encode(TEXT, adds_special_tokens=True)
    assert (ids[0], len(ids), vocabulary.special_ids()) == (BEGIN, 1 + len(TEXT.encode()), (BEGIN,))
    assert vocabulary.decode(ids[1:]) == TEXT
    assert vocabulary.token_text(BEGIN) == "<begin>"
    assert vocabulary.size >= max(BEGIN + 1, tokens.VOCABULARY_SIZE)


@pytest.mark.parametrize("is_models", [True, False])
def test_spans_cover_the_text_and_name_its_tokens(is_models: bool, model: Path) -> None:
    vocabulary = vocabulary_of(model) if is_models else OWN_VOCABULARY
    spans = vocabulary.spans(TEXT)
    assert tuple(span.token_id for span in spans) == vocabulary.encode(TEXT, adds_special_tokens=False)
    assert (spans[0].begin, spans[-1].end) == (0, len(TEXT))
    assert [TEXT[span.begin : span.end] for span in spans][-3:] == ["\u2764"] * 3  # three bytes of one character


def test_what_is_no_model_is_read_with_the_own_words(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"not a model")
    for place in (None, "owner/name", tmp_path, tmp_path / "absent.gguf", broken):
        assert vocabulary_of(place) is OWN_VOCABULARY


@pytest.mark.parametrize("content", ["{", "{}"])
def test_a_tokenizer_that_cannot_be_read_is_done_without(content: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    assert vocabulary_of(tmp_path) is OWN_VOCABULARY


@pytest.mark.parametrize("kind", sorted(COMMANDS))
def test_each_simulator_counts_as_the_model_that_its_command_line_names(kind: str, model: Path) -> None:
    async def main() -> None:
        command = [word.format(place=model) for word in COMMANDS[kind]]
        async with Simulator(kind, command, port=0) as simulator:
            assert isinstance(simulator.launch.vocabulary, ModelVocabulary)
            body = {"model": simulator.model, "prompt": TEXT, "max_tokens": 1}
            answer = await asked(simulator, "/v1/completions", body)
            assert answer["usage"]["prompt_tokens"] == 1 + len(TEXT.encode())

    asyncio.run(main())


def test_llama_servers_simulator_takes_every_id_of_the_models_vocabulary(model: Path) -> None:
    vocabulary = vocabulary_of(model)
    body = NativeBody(prompt=[BEGIN, tokens.VOCABULARY_SIZE + 1])
    with pytest.raises(Refusal, match="invalid tokens"):
        prompt_ids(body, vocabulary)
    vocabulary.size = tokens.VOCABULARY_SIZE + 2
    assert prompt_ids(body, vocabulary) == (BEGIN, tokens.VOCABULARY_SIZE + 1)


@pytest.mark.weights
def test_a_gguf_file_is_read_as_the_directory_of_its_model() -> None:
    from enginebay.models.sources import resolve_model

    directory = resolve_model("smollm2-135m")
    [gguf] = (directory.parent / f"{directory.name.removesuffix('-1')}-gguf").glob("*.gguf")
    text = "The quick brown fox, 123 na\u00efve."
    assert vocabulary_of(gguf).encode(text, adds_special_tokens=True) == vocabulary_of(directory).encode(
        text, adds_special_tokens=True
    )
