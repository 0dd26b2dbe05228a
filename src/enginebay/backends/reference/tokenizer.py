"""The model's tokenizer and chat template, read from its Hugging Face directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from enginebay.backends.reference.chat_template import ChatTemplate
from enginebay.backends.reference.token_bytes import TokenBytes, token_bytes
from enginebay.errors import InvalidRequest, ModelNotFound, UnsupportedModel

_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class ModelTokenizer:
    """Blocking: callers encode long texts in a thread. `encode` lets other threads run meanwhile."""

    def __init__(self, tokenizer: Tokenizer, config: Mapping[str, Any], *, template: str | None) -> None:
        special_tokens = _special_tokens(config)
        self.chat_template = ChatTemplate(template, special_tokens=special_tokens)
        self.bytes = _token_bytes(tokenizer)
        self._tokenizer = tokenizer
        self._bos_ids, self._eos_ids = _added_ids(tokenizer, config, special_tokens)

    @classmethod
    def from_directory(cls, directory: Path) -> ModelTokenizer:
        """Raises ModelNotFound without a tokenizer.json, UnsupportedModel for one that can't be used."""
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise ModelNotFound(f"{directory} has no tokenizer.json: the reference engine needs one")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise UnsupportedModel(f"{path} cannot be read: {error}") from error
        # A tokenizer.json may carry the truncation and padding of a training run.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        config = _json_file(directory / "tokenizer_config.json")
        return cls(tokenizer, config, template=_template_source(directory, config))

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Raises InvalidRequest for a text that is no Unicode text (half a surrogate pair)."""
        by_library = add_special_tokens and self._bos_ids is None
        try:
            # The batch form keeps the interpreter's lock the shortest: other threads go on beside a long text.
            [encoding] = self._tokenizer.encode_batch_fast([text], add_special_tokens=by_library)
        except (UnicodeEncodeError, TypeError) as error:
            raise InvalidRequest(f"the prompt is not valid Unicode text: {error}", field="prompt") from error
        if add_special_tokens and self._bos_ids is not None and self._eos_ids is not None:
            return [*self._bos_ids, *encoding.ids, *self._eos_ids]
        return encoding.ids


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token` and the like as text; the file gives each as a text or as a description with `content`."""
    found: dict[str, str] = {}
    for name in _SPECIAL_NAMES:
        token = config.get(name)
        if isinstance(token, Mapping):
            token = token.get("content")
        if isinstance(token, str):
            found[name] = token
    return found


def _added_ids(
    tokenizer: Tokenizer, config: Mapping[str, Any], special_tokens: Mapping[str, str]
) -> tuple[list[int] | None, list[int] | None]:
    """The tokens that `add_bos_token` and `add_eos_token` put around a text; None leaves it to tokenizer.json."""
    if config.get("add_bos_token") is None and config.get("add_eos_token") is None:
        return None, None

    def ids(switch: str, name: str) -> list[int]:
        if not config.get(switch):
            return []
        token_id = tokenizer.token_to_id(special_tokens.get(name, ""))
        if token_id is None:
            raise UnsupportedModel(f"tokenizer_config.json sets {switch}, but its {name} is not in the vocabulary")
        return [token_id]

    return ids("add_bos_token", "bos_token"), ids("add_eos_token", "eos_token")


def _token_bytes(tokenizer: Tokenizer) -> TokenBytes:
    added = tokenizer.get_added_tokens_decoder().values()
    special_tokens = frozenset(token.content for token in added if token.special)
    decoder = None if tokenizer.decoder is None else json.loads(tokenizer.decoder.__getstate__())
    return token_bytes(tokenizer.get_vocab(with_added_tokens=True), special_tokens, decoder)


def _template_source(directory: Path, config: Mapping[str, Any]) -> str | None:
    """`chat_template.jinja` goes before the copy in tokenizer_config.json, which may be a list of named ones."""
    path = directory / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
        template = named.get("default")
    return template


def _json_file(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnsupportedModel(f"{path} is not valid JSON: {error}") from error
