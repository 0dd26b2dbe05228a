import builtins
import json
import subprocess
import sys
from pathlib import Path

import pytest

from enginebay.errors import ModelError, ModelNotFound
from enginebay.models.cache import default_cache_root
from enginebay.models.catalogue import CATALOGUE, SMOLLM2_135M
from enginebay.models.extras import models_extra
from enginebay.models.hub_records import HubSource
from enginebay.models.sources import parse_source, resolve_model


@pytest.fixture
def model_directory(tmp_path: Path) -> Path:
    directory = tmp_path / "my-model"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"")
    return directory


def test_a_directory_is_used_as_it_is_and_given_absolute(model_directory: Path, monkeypatch: pytest.MonkeyPatch):
    assert resolve_model(str(model_directory)) == model_directory
    monkeypatch.chdir(model_directory.parent)
    assert resolve_model("./my-model") == model_directory
    monkeypatch.setenv("HOME", str(model_directory.parent))
    assert resolve_model("~/my-model", offline=True) == model_directory


def test_a_name_of_the_catalogue_wins_over_a_directory_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2-135m").mkdir()
    assert parse_source("SmolLM2-135M") is SMOLLM2_135M
    assert parse_source("./smollm2-135m") == tmp_path / "smollm2-135m"


@pytest.mark.parametrize(
    ("text", "revision", "meant"),
    [
        ("hf:Qwen/Qwen3-0.6B", None, HubSource("Qwen/Qwen3-0.6B", None)),
        (" hf:a/b@v1.0 ", None, HubSource("a/b", "v1.0")),
        ("hf:a/b", "refs/pr/1", HubSource("a/b", "refs/pr/1")),
        ("hf:a/b@v1", "v1", HubSource("a/b", "v1")),
    ],
)
def test_a_hub_source_may_carry_its_revision(text: str, revision: str | None, meant: HubSource):
    assert parse_source(text, revision=revision) == meant


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no model is called ''"),
        ("smollm2-135", "Did you mean 'smollm2-135m'"),
        ("smolm2-135m", "Did you mean 'smollm2-135m'"),
        ("Qwen/Qwen3-0.6B", "Did you mean 'hf:Qwen/Qwen3-0.6B'"),
        ("/no/such/place", "no such directory; expected a known name, hf:owner/name, or a directory"),
        ("hf:Qwen3", "expected hf:owner/name"),
        ("hf:a/b/c", "expected hf:owner/name"),
        ("hf:a/b@", "expected hf:owner/name"),
        ("hf:../../etc/passwd", "expected hf:owner/name"),
        ("https://huggingface.co/a/b", "expected a known name"),
    ],
)
def test_a_source_that_means_nothing_is_told_what_would(text: str, words: str):
    with pytest.raises(ModelNotFound) as caught:
        parse_source(text)
    assert words in str(caught.value)


def test_a_file_is_told_to_be_no_model(tmp_path: Path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelNotFound, match=r"is a file; .* the directory that holds config\.json"):
        parse_source(str(tmp_path / "model.gguf"))


def test_two_revisions_or_one_where_there_is_none_are_refused(model_directory: Path):
    with pytest.raises(ModelNotFound, match="one revision and the setting another"):
        parse_source("hf:a/b@v1", revision="v2")
    for source in ("smollm2-135m", str(model_directory)):
        with pytest.raises(ModelNotFound, match="has no revisions"):
            resolve_model(source, revision="v1")


def test_a_directory_without_config_or_weights_is_refused(model_directory: Path):
    (model_directory / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match="has no weights"):
        resolve_model(str(model_directory))
    (model_directory / "config.json").unlink()
    with pytest.raises(ModelNotFound, match=r"has no config\.json"):
        resolve_model(str(model_directory))


def test_a_directory_with_a_shard_missing_is_refused_by_name(model_directory: Path):
    index = model_directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}))
    with pytest.raises(ModelNotFound, match=r"is incomplete: .* names model-2\.safetensors"):
        resolve_model(str(model_directory))
    index.write_text("[]")
    with pytest.raises(ModelNotFound, match="not a readable list of shards"):
        resolve_model(str(model_directory))


def test_the_cache_is_where_the_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ENGINEBAY_HOME", str(tmp_path / "elsewhere"))
    assert default_cache_root() == tmp_path / "elsewhere"
    monkeypatch.delenv("ENGINEBAY_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_root() == tmp_path / ".cache" / "enginebay"


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (None, "no home directory to keep models in; set ENGINEBAY_HOME to a folder"),
        ("~nobody-here/models", "ENGINEBAY_HOME is ~nobody-here/models, but there is no such home"),
    ],
)
def test_without_a_home_directory_the_cache_names_the_variable_to_set(
    own: str | None, message: str, monkeypatch: pytest.MonkeyPatch
):
    """A container may run as a user that it does not know."""

    def unknown(user: object) -> None:
        raise KeyError(f"no such user: {user}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("pwd.getpwnam", unknown)
    for name in ("HOME", "ENGINEBAY_HOME"):
        monkeypatch.delenv(name, raising=False)
    if own is not None:
        monkeypatch.setenv("ENGINEBAY_HOME", own)
    with pytest.raises(ModelError, match=message):
        default_cache_root()


def test_the_catalogue_pins_every_download():
    for model in CATALOGUE:
        assert model.name == model.name.lower()
        for digest in (model.wheel_sha256, model.gguf_sha256):
            assert len(bytes.fromhex(digest)) == 32
        assert model.version in model.wheel_file


def test_a_missing_library_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    real_import = builtins.__import__

    def without_the_extra(name: str, *others: object, **more: object) -> object:
        if name.split(".")[0] == "huggingface_hub":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real_import(name, *others, **more)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(builtins, "__import__", without_the_extra)
    with pytest.raises(ModelError, match=r"hf:a/b needs .*'huggingface_hub'.* pip install \"enginebay\[models\]\""):
        resolve_model("hf:a/b", cache_dir=tmp_path)


def test_an_import_that_fails_for_another_reason_is_not_hidden():
    with pytest.raises(ImportError, match="cannot import name"), models_extra("anything"):
        from json import no_such_name  # noqa: F401  # pyright: ignore[reportAttributeAccessIssue]


def test_the_door_imports_nothing_heavy():
    assert _imported_by("enginebay.models.sources").isdisjoint(
        {"numpy", "gguf", "huggingface_hub", "tokenizers", "torch", "transformers"}
    )


def _imported_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    command = [sys.executable, "-c", code]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
