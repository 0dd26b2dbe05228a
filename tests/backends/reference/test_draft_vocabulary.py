"""A draft model must mean the same tokens by the same ids."""

import json

import pytest

from enginebay.backends.reference.draft_vocabulary import check_draft_vocabulary
from enginebay.errors import ModelError


def directory_with(path, vocabulary):
    path.mkdir()
    (path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}), encoding="utf-8")
    return path


def test_the_same_ids_are_accepted_and_others_are_refused(tmp_path):
    model = directory_with(tmp_path / "model", {"a": 0, "b": 1})
    check_draft_vocabulary(model, directory_with(tmp_path / "same", {"b": 1, "a": 0}))
    with pytest.raises(ModelError, match=r"speculative_draft_model other.*same vocabulary"):
        check_draft_vocabulary(model, directory_with(tmp_path / "other", {"a": 1, "b": 0}))


def test_a_directory_without_a_tokenizer_is_left_to_the_sizes(tmp_path):
    check_draft_vocabulary(directory_with(tmp_path / "model", {"a": 0}), tmp_path)


def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path):
    model = directory_with(tmp_path / "model", {"a": 0})
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match=r"tokenizer\.json cannot be read"):
        check_draft_vocabulary(model, tmp_path / "broken")
