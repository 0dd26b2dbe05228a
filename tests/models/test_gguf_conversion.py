"""The conversion on a tiny model whose original weights are known."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tiny_gguf import HEADS, LAYERS, MERGES, TEMPLATE, TinyModel, llama_cpp_permute, vocabulary, write_tiny_gguf
from tokenizers import Tokenizer

from enginebay.errors import UnsupportedModel
from enginebay.models.gguf_conversion import convert_gguf, unpermute
from enginebay.models.progress import PullProgress


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def converted(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("converted")
    convert_gguf(tiny.gguf, directory)
    return directory


def test_every_weight_is_the_original_one_rounded_to_bfloat16(tiny: TinyModel, converted: Path):
    with safe_open(converted / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(tiny.weights)
        for name, original in tiny.weights.items():
            assert torch.equal(file.get_tensor(name), torch.from_numpy(original).to(torch.bfloat16)), name


def test_the_order_of_q_and_k_rows_is_undone():
    rows = np.arange(64 * 3, dtype=np.float32).reshape(64, 3)
    for num_heads in (1, 2, 4, 16):
        permuted = llama_cpp_permute(rows, num_heads)
        np.testing.assert_array_equal(unpermute(permuted, num_heads), rows)
    assert not np.array_equal(llama_cpp_permute(rows, HEADS), rows)
    assert not np.array_equal(unpermute(llama_cpp_permute(rows, 4), 2), rows)


def test_the_config_says_what_the_gguf_metadata_says(converted: Path):
    config = json.loads((converted / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["rms_norm_eps"] == 1e-5  # stored as the float32 9.9999997e-06
    assert (config["hidden_size"], config["head_dim"], config["num_hidden_layers"]) == (64, 16, LAYERS)
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (4, 2)
    assert (config["rope_theta"], config["max_position_embeddings"]) == (10000.0, 256)
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, 2, 2)
    assert config["tie_word_embeddings"] is True
    assert config["vocab_size"] == len(vocabulary())
    generation = json.loads((converted / "generation_config.json").read_text())
    assert generation["eos_token_id"] == 2


def test_transformers_loads_the_directory(tiny: TinyModel, converted: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(converted)
    model = AutoModelForCausalLM.from_pretrained(converted)
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    original = torch.from_numpy(tiny.weights["model.norm.weight"]).to(torch.bfloat16)
    assert torch.equal(model.model.norm.weight, original)
    assert tokenizer.eos_token == "<|im_end|>"
    chat = [{"role": "user", "content": "hello"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "<|im_start|>user\nhello<|im_end|>\n"
    ids = tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"]
    assert ids[0] == 1
    assert ids.count(2) == 1
    assert tokenizer.decode(tokenizer.encode("hello wörld 42!")) == "hello wörld 42!"


def test_the_tokenizer_merges_splits_digits_and_knows_special_tokens(converted: Path):
    tokenizer = Tokenizer.from_file(str(converted / "tokenizer.json"))
    assert tokenizer.encode("hello w12").tokens == ["hello", "Ġw", "1", "2"]
    assert tokenizer.encode("<|im_start|>hello<|im_end|>").tokens == ["<|im_start|>", "hello", "<|im_end|>"]
    assert tokenizer.encode("hell").ids == [vocabulary().index("hell")]
    assert tokenizer.decode(tokenizer.encode("<|im_start|>hello 世界").ids) == "hello 世界"
    assert len(MERGES) == 5
    config = json.loads((converted / "tokenizer_config.json").read_text())
    assert config["chat_template"] == TEMPLATE
    assert config["bos_token"] == "<|im_start|>"
    assert config["model_max_length"] == 256


def test_each_digit_is_cut_off_before_the_words_are(converted: Path):
    """Order matters: the spaces before a digit stay one piece, which GPT-2's expression alone would split."""
    pre_tokenizer = Tokenizer.from_file(str(converted / "tokenizer.json")).pre_tokenizer
    pieces = [piece for piece, _ in pre_tokenizer.pre_tokenize_str("a  12²b's")]
    assert pieces == ["a", "ĠĠ", "1", "2", "Â²", "b", "'s"]


def test_progress_counts_every_tensor(tiny: TinyModel, tmp_path: Path):
    seen: list[PullProgress] = []
    convert_gguf(tiny.gguf, tmp_path, progress=seen.append)
    assert [progress.completed for progress in seen] == list(range(len(tiny.weights) + 1))
    assert {progress.total for progress in seen} == {len(tiny.weights)}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"architecture": "mamba"}, "'mamba'"),
        ({"pre_tokenizer": "qwen2"}, "'qwen2'"),
        ({"extra_tensor": "rope_freqs.weight"}, "'rope_freqs.weight'"),
    ],
)
def test_what_cannot_be_converted_exactly_is_refused_by_name(tmp_path: Path, change: dict[str, str], named: str):
    tiny = write_tiny_gguf(tmp_path / "odd.gguf", **change)
    (tmp_path / "out").mkdir()
    with pytest.raises(UnsupportedModel, match=re.escape(named)):
        convert_gguf(tiny.gguf, tmp_path / "out")


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path):
    path = tmp_path / "not.gguf"
    path.write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(UnsupportedModel, match=r"not\.gguf is not a readable GGUF file"):
        convert_gguf(path, tmp_path)
