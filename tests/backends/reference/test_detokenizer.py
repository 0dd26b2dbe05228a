import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import byte_fallback, byte_level, metaspace
from tokenizers import Tokenizer, decoders, models
from tokenizers.decoders import DecodeStream

from enginebay.backends.reference.detokenizer import Detokenizer
from enginebay.backends.reference.tokenizer import ModelTokenizer
from enginebay.errors import UnsupportedModel

TOKENIZERS = {
    "byte_level": byte_level(),
    "byte_fallback": byte_fallback(),
    "metaspace": metaspace(),
    "metaspace_never": metaspace("never"),
}
MODEL_TOKENIZERS = {name: ModelTokenizer(tokenizer, {}, template=None) for name, tokenizer in TOKENIZERS.items()}
every_tokenizer = pytest.mark.parametrize("name", TOKENIZERS)


def pieces(name, token_ids, skip_special_tokens=True):
    detokenizer = Detokenizer(MODEL_TOKENIZERS[name].bytes, skip_special_tokens=skip_special_tokens)
    return [detokenizer.push(token_id) for token_id in token_ids]


@every_tokenizer
@given(text=st.text(max_size=60), skip=st.booleans())
@settings(max_examples=150, deadline=None)
def test_the_pieces_of_a_text_add_up_to_a_decode_of_the_whole(name, text, skip):
    token_ids = TOKENIZERS[name].encode(text).ids
    assert "".join(pieces(name, token_ids, skip)) == TOKENIZERS[name].decode(token_ids, skip_special_tokens=skip)


@pytest.mark.parametrize("name", ["byte_level", "metaspace", "metaspace_never"])
@given(data=st.data(), skip=st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_token_ids_at_all_add_up_to_a_decode_of_the_whole_without_half_a_character_at_its_end(name, data, skip):
    vocab_size = TOKENIZERS[name].get_vocab_size()
    token_ids = data.draw(st.lists(st.integers(0, vocab_size + 5), max_size=40))
    text = "".join(pieces(name, token_ids, skip))
    whole = TOKENIZERS[name].decode(token_ids, skip_special_tokens=skip)
    assert whole in (text, text + "\ufffd")


@given(text=st.text(alphabet="你好🙂👩‍👩‍👧‍👦é the", max_size=20))
@settings(deadline=None)
def test_no_piece_holds_half_a_character(text):
    for name in ("byte_level", "byte_fallback"):
        assert "\ufffd" not in "".join(pieces(name, TOKENIZERS[name].encode(text).ids))


def test_an_emoji_is_sent_whole_with_the_token_of_its_last_byte():
    token_ids = byte_level().encode("🙂").ids
    assert len(token_ids) > 1
    assert pieces("byte_level", token_ids) == [""] * (len(token_ids) - 1) + ["🙂"]


def test_a_character_that_is_cut_at_the_end_is_left_out():
    assert "".join(pieces("byte_level", byte_level().encode("a🙂").ids[:-1])) == "a"


def test_a_character_that_is_cut_in_the_middle_is_a_replacement():
    token_ids = [*byte_level().encode("a🙂").ids[:-1], *byte_level().encode("b").ids]
    assert "".join(pieces("byte_level", token_ids)) == "a\ufffdb" == byte_level().decode(token_ids)


def test_byte_tokens_stream_character_by_character():
    token_ids = byte_fallback().encode("🙂🙂", add_special_tokens=False).ids
    assert [piece for piece in pieces("byte_fallback", token_ids) if piece] == ["🙂", "🙂"]


def test_only_the_first_blank_of_a_sentencepiece_text_is_dropped():
    for text in ("  two blanks", " the  the"):
        token_ids = byte_fallback().encode(text).ids
        assert "".join(pieces("byte_fallback", token_ids)) == text


@pytest.mark.parametrize("name", ["byte_level", "byte_fallback", "metaspace", "metaspace_never"])
@pytest.mark.parametrize("prompt", ["the", "the quick", "", "a"])
@pytest.mark.parametrize("skip", [True, False])
def test_an_output_goes_on_from_its_prompt_as_a_decode_stream_that_has_read_the_prompt_does(name, prompt, skip):
    tokenizer = TOKENIZERS[name]
    prompt_token_ids = tokenizer.encode(prompt).ids
    token_ids = tokenizer.encode(f"{prompt} the fox", add_special_tokens=False).ids
    token_ids = token_ids[len(tokenizer.encode(prompt, add_special_tokens=False).ids) :]
    stream = DecodeStream(skip_special_tokens=skip)
    for token_id in prompt_token_ids:
        stream.step(tokenizer, token_id)
    expected = "".join(stream.step(tokenizer, token_id) or "" for token_id in token_ids)
    detokenizer = Detokenizer(MODEL_TOKENIZERS[name].bytes, skip_special_tokens=skip, prompt_token_ids=prompt_token_ids)
    assert "".join(map(detokenizer.push, token_ids)) == expected
    if prompt:
        assert expected == " the fox"


def test_special_tokens_are_dropped_or_kept_as_asked():
    token_ids = byte_level().encode("<|im_start|>hi<tool call><|im_end|>").ids
    assert "".join(pieces("byte_level", token_ids, True)) == "hi<tool call>"
    assert "".join(pieces("byte_level", token_ids, False)) == "<|im_start|>hi<tool call><|im_end|>"


def test_a_token_costs_the_same_at_the_end_of_a_long_text_even_where_no_character_ever_becomes_whole():
    half = byte_level().encode("🙂").ids[0]
    detokenizer = Detokenizer(MODEL_TOKENIZERS["byte_level"].bytes, skip_special_tokens=True)

    def seconds(num_tokens):
        begun_at = time.perf_counter()
        for _ in range(num_tokens):
            detokenizer.push(half)
        return time.perf_counter() - begun_at

    first = min(seconds(2000) for _ in range(5))
    seconds(100_000)
    assert min(seconds(2000) for _ in range(5)) < 5 * first


def test_a_decoder_that_is_not_known_is_refused_by_name():
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(UnsupportedModel, match="WordPiece"):
        ModelTokenizer(tokenizer, {}, template=None)
