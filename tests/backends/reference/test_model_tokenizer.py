import json

import pytest
from tiny_tokenizers import byte_fallback, byte_level
from tokenizers import Tokenizer

from enginebay.backends.reference.tokenizer import ModelTokenizer
from enginebay.errors import InvalidRequest, ModelNotFound, UnsupportedModel
from enginebay.types import Chat, Message


def write(directory, tokenizer, *, config=None, template=None):
    tokenizer.save(str(directory / "tokenizer.json"))
    if config is not None:
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
    if template is not None:
        (directory / "chat_template.jinja").write_text(template)
    return ModelTokenizer.from_directory(directory)


def test_the_post_processor_of_tokenizer_json_adds_bos_when_the_config_says_nothing(tmp_path):
    tokenizer = write(tmp_path, byte_fallback())
    bos = byte_fallback().token_to_id("<s>")
    assert tokenizer.encode("the", add_special_tokens=True)[0] == bos
    assert bos not in tokenizer.encode("the", add_special_tokens=False)


@pytest.mark.parametrize("add_bos", [True, False])
@pytest.mark.parametrize("add_eos", [True, False])
def test_what_the_config_says_about_bos_and_eos_goes_before_the_post_processor(tmp_path, add_bos, add_eos):
    config = {
        "add_bos_token": add_bos,
        "add_eos_token": add_eos,
        "bos_token": "<s>",
        "eos_token": {"content": "</s>", "lstrip": False},
    }
    tokenizer = write(tmp_path, byte_fallback(), config=config)
    plain = tokenizer.encode("the fox", add_special_tokens=False)
    bos, eos = byte_fallback().token_to_id("<s>"), byte_fallback().token_to_id("</s>")
    assert tokenizer.encode("the fox", add_special_tokens=True) == [bos] * add_bos + plain + [eos] * add_eos


def test_a_bos_that_is_not_in_the_vocabulary_is_refused(tmp_path):
    with pytest.raises(UnsupportedModel, match="add_bos_token"):
        write(tmp_path, byte_level(), config={"add_bos_token": True, "bos_token": "<nowhere>"})


def test_a_template_file_goes_before_the_one_in_the_config(tmp_path):
    config = {"chat_template": "from config", "bos_token": "<b>"}
    chat = Chat((Message("user", "x"),))
    assert write(tmp_path, byte_level(), config=config).chat_template.render(chat) == "from config"
    tokenizer = write(tmp_path, byte_level(), config=config, template="file {{ bos_token }}")
    assert tokenizer.chat_template.render(chat) == "file <b>"


def test_of_several_named_templates_the_default_is_taken(tmp_path):
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    tokenizer = write(tmp_path, byte_level(), config={"chat_template": named})
    assert tokenizer.chat_template.render(Chat((Message("user", "x"),))) == "plain"


def test_truncation_and_padding_left_over_from_training_are_ignored(tmp_path):
    left_over = Tokenizer.from_str(byte_level().to_str())
    left_over.enable_truncation(4)
    left_over.enable_padding(length=64)
    tokenizer = write(tmp_path, left_over)
    text = "the quick brown fox jumps"
    assert tokenizer.encode(text, add_special_tokens=True) == byte_level().encode(text).ids


def test_half_a_surrogate_pair_is_an_invalid_request(tmp_path):
    with pytest.raises(InvalidRequest, match="Unicode"):
        write(tmp_path, byte_level()).encode("\ud83d", add_special_tokens=True)


def test_a_directory_without_a_usable_tokenizer_is_refused(tmp_path):
    with pytest.raises(ModelNotFound, match=r"no tokenizer\.json"):
        ModelTokenizer.from_directory(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UnsupportedModel, match="cannot be read"):
        ModelTokenizer.from_directory(tmp_path)
    byte_level().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(UnsupportedModel, match="tokenizer_config"):
        ModelTokenizer.from_directory(tmp_path)


def test_the_text_of_one_token_is_what_it_adds_to_an_output(tmp_path):
    tokenizer = write(tmp_path, byte_fallback())
    ids = tokenizer.encode("the quick", add_special_tokens=False)
    assert "".join(map(tokenizer.bytes.text, ids)) == " the quick"
    assert tokenizer.bytes.text(byte_fallback().token_to_id("<0xF0>")) == "\ufffd"
    assert tokenizer.bytes.text(10**6) == ""
