"""A small byte-level BPE of its own, trained on the corpus; built like those of real models, with a chat template."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from enginebay.loadtest.tokenizer import FileTokenizer
from enginebay.loadtest.workloads import read_corpus

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_level_tokenizer(folder: Path, *, adds_bos: bool) -> FileTokenizer:
    """As those of GPT-2, Llama 3, Qwen and SmolLM2: a blank belongs to the word behind it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(tokenizer, folder, alphabet=pre_tokenizers.ByteLevel.alphabet(), adds_bos=adds_bos)


def sentence_piece_tokenizer(folder: Path) -> FileTokenizer:
    """As those of Llama 2 and Mistral: a blank is put before the text, and taken away when it is given back."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    return _trained(tokenizer, folder, alphabet=[], adds_bos=True)


def _trained(tokenizer: Tokenizer, folder: Path, *, alphabet: list[str], adds_bos: bool) -> FileTokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        special_tokens=["<s>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator([read_corpus()], trainer)
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE, "bos_token": "<s>"}))
    return FileTokenizer(folder)
