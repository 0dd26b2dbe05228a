"""The tokenizer inside a GGUF file (vocabulary, merges, chat template) as Hugging Face files."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence

from enginebay.errors import UnsupportedModel
from enginebay.models.gguf_file import GgufFile
from enginebay.models.json_file import write_json

# `tokenizer.ggml.token_type`
CONTROL = 3
USER_DEFINED = 4

SPECIAL_TOKEN_KEYS = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}


def write_tokenizer(gguf: GgufFile, directory: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json.

    Raises UnsupportedModel for a tokenizer whose exact rules are not known here: a near miss would go unnoticed.
    """
    tokenizer = build_tokenizer(gguf)
    tokenizer.save(str(directory / "tokenizer.json"))
    special_tokens = _named_special_tokens(gguf)
    write_json(directory / "special_tokens_map.json", special_tokens)
    write_json(directory / "tokenizer_config.json", _tokenizer_config(gguf, tokenizer, special_tokens))


def build_tokenizer(gguf: GgufFile) -> Tokenizer:
    model = gguf.text("tokenizer.ggml.model")
    if model != "gpt2":
        raise UnsupportedModel(f"{gguf.path}: cannot convert the tokenizer model {model!r}, only 'gpt2' (byte BPE)")
    if gguf.flag_or("tokenizer.ggml.add_bos_token", False):
        raise UnsupportedModel(f"{gguf.path}: cannot convert a tokenizer that adds a first token by itself")
    tokens = gguf.strings("tokenizer.ggml.tokens")
    merges = [_merge_pair(merge) for merge in gguf.strings("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(BPE({token: token_id for token_id, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = _pre_tokenizer(gguf)
    tokenizer.decoder = ByteLevelDecoder()
    kinds = gguf.integers("tokenizer.ggml.token_type")
    added = [(token, kind) for token, kind in zip(tokens, kinds, strict=True) if kind in (CONTROL, USER_DEFINED)]
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=kind == CONTROL) for token, kind in added])
    return tokenizer


def _pre_tokenizer(gguf: GgufFile) -> PreTokenizer:
    """How text is cut before the merges, by llama.cpp's name for it (`LLAMA_VOCAB_PRE_TYPE_*`)."""
    kind = gguf.text("tokenizer.ggml.pre")
    if kind != "smollm":
        raise UnsupportedModel(f"{gguf.path}: cannot convert the pre-tokenizer {kind!r}, only 'smollm'")
    # Each digit stands alone; the rest is cut by GPT-2's expression.
    return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)])


def _merge_pair(merge: str) -> tuple[str, str]:
    left, right = merge.split(" ")
    return left, right


def _named_special_tokens(gguf: GgufFile) -> dict[str, object]:
    tokens = gguf.strings("tokenizer.ggml.tokens")
    token_ids = {name: gguf.integer_or(key, None) for name, key in SPECIAL_TOKEN_KEYS.items()}
    return {name: tokens[token_id] for name, token_id in token_ids.items() if token_id is not None}


def _tokenizer_config(gguf: GgufFile, tokenizer: Tokenizer, special_tokens: dict[str, object]) -> dict[str, object]:
    config: dict[str, object] = {
        # The class that takes tokenizer.json as it is; a model's own class may rebuild the pre-tokenizer.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": gguf.integer(f"{gguf.text('general.architecture')}.context_length"),
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        **special_tokens,
        "added_tokens_decoder": {
            str(token_id): {
                "content": token.content,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": token.special,
            }
            for token_id, token in sorted(tokenizer.get_added_tokens_decoder().items())
        },
    }
    template = gguf.text_or("tokenizer.chat_template", None)
    if template is not None:
        config["chat_template"] = template
    return config
