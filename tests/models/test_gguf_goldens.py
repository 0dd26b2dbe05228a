"""The embedded model, converted, against what llama.cpp made of its GGUF file."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from enginebay.models.sources import resolve_model

pytestmark = pytest.mark.weights

GOLDENS = Path(__file__).parents[1] / "data" / "goldens"
LEAST_COSINE = 0.99


@pytest.fixture(scope="module")
def directory() -> Path:
    return resolve_model("smollm2-135m")


def next_token_logits(directory: Path) -> list[np.ndarray]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    prompts = json.loads((GOLDENS / "smollm2-first-logits.json").read_text())
    with torch.inference_mode():
        return [model(torch.tensor([prompt["ids"]])).logits[0, -1].numpy() for prompt in prompts]


def agreement(logits: list[np.ndarray]) -> list[tuple[float, bool]]:
    """For each prompt: cosine with llama.cpp's logits, and whether the best token is the same."""
    with np.load(GOLDENS / "smollm2-first-logits.npz") as stored:
        goldens = [stored[f"logits_{index}"].astype(np.float64) for index in range(len(logits))]
    return [
        (float(ours @ golden / np.linalg.norm(ours) / np.linalg.norm(golden)), bool(ours.argmax() == golden.argmax()))
        for ours, golden in zip(logits, goldens, strict=True)
    ]


def passes(result: list[tuple[float, bool]]) -> bool:
    return all(cosine >= LEAST_COSINE and same_best for cosine, same_best in result)


def test_all_200_strings_have_llama_cpps_token_ids(directory: Path):
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.encode_special_tokens = True  # the goldens treat them as plain text
    strings = json.loads((GOLDENS / "smollm2-token-ids.json").read_text())["strings"]
    assert len(strings) == 200
    wrong = [case for case in strings if tokenizer.encode(case["text"], add_special_tokens=False).ids != case["ids"]]
    assert wrong == []


def test_transformers_tokenizer_gives_the_same_ids(directory: Path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    strings = json.loads((GOLDENS / "smollm2-token-ids.json").read_text())["strings"]
    wrong = [
        case
        for case in strings
        if tokenizer.encode(case["text"], add_special_tokens=False, split_special_tokens=True) != case["ids"]
    ]
    assert wrong == []


def test_next_token_logits_agree_with_llama_cpp_on_all_six_prompts(directory: Path):
    result = agreement(next_token_logits(directory))
    assert len(result) == 6
    assert passes(result), result


def test_a_conversion_that_leaves_q_and_k_permuted_does_not_pass(directory: Path, tmp_path: Path):
    """The check above can fail: one wrong order of rows, and nothing else, is caught."""
    wrong = tmp_path / "wrong"
    shutil.copytree(directory, wrong)
    weights = load_file(directory / "model.safetensors")
    for name, values in weights.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            num_heads = values.shape[0] // 64
            permuted = values.reshape(num_heads, 2, 32, -1).swapaxes(1, 2).reshape(values.shape)
            weights[name] = permuted.contiguous()
    save_file(weights, wrong / "model.safetensors", metadata={"format": "pt"})
    result = agreement(next_token_logits(wrong))
    assert not passes(result)
    assert max(cosine for cosine, _ in result) < LEAST_COSINE, result


def test_a_tokenizer_that_does_not_cut_text_before_its_merges_does_not_pass(directory: Path):
    from tokenizers.pre_tokenizers import ByteLevel

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    strings = json.loads((GOLDENS / "smollm2-token-ids.json").read_text())["strings"]
    assert any(tokenizer.encode(case["text"], add_special_tokens=False).ids != case["ids"] for case in strings)


def test_the_config_has_the_published_values(directory: Path):
    config = json.loads((directory / "config.json").read_text())
    published = {
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192, "rope_theta": 100000.0,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
    }  # fmt: skip
    assert {key: config[key] for key in published} == published
