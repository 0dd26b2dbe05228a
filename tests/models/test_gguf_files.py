"""The GGUF file of a model: of the catalogue, in a directory, or given by its path."""

import shutil
from pathlib import Path

import pytest
from fake_index import MEMBER, PACKAGE, VERSION, WHEEL, write_wheel
from tiny_gguf import write_tiny_gguf

import enginebay.models.sources as sources
from enginebay.errors import ModelNotFound, UnsupportedModel
from enginebay.models.catalogue import PackagedModel
from enginebay.models.checksums import sha256_of
from enginebay.models.gguf import gguf_location, resolve_gguf
from enginebay.models.progress import ProgressCallback


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    (tmp_path / "shelf").mkdir()
    tiny = write_tiny_gguf(tmp_path / "shelf" / "tiny.gguf")
    write_wheel(tmp_path / "shelf" / WHEEL, tiny.gguf.read_bytes())
    return tmp_path / "shelf" / WHEEL


@pytest.fixture
def model(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> PackagedModel:
    model = PackagedModel(
        name="tiny",
        description="",
        licence="Apache-2.0",
        package=PACKAGE,
        version=VERSION,
        wheel_file=WHEEL,
        wheel_sha256=sha256_of(wheel),
        gguf_member=MEMBER,
        gguf_sha256=sha256_of(wheel.parent / "tiny.gguf"),
    )
    monkeypatch.setattr(sources, "named_model", lambda name: model if name == "tiny" else None)
    return model


def test_the_file_of_a_catalogue_model_is_pulled_once_and_is_where_it_was_said_to_be(
    tmp_path: Path, wheel: Path, model: PackagedModel
) -> None:
    num_fetched = 0

    def fetch(model: PackagedModel, folder: Path, *, progress: ProgressCallback) -> Path:
        nonlocal num_fetched
        num_fetched += 1
        return Path(shutil.copy(wheel, folder / model.wheel_file))

    cache_dir = tmp_path / "cache"
    first = resolve_gguf("tiny", cache_dir=cache_dir, fetch=fetch)
    again = resolve_gguf("tiny", cache_dir=cache_dir, fetch=fetch, offline=True, refresh=True)
    assert first == again
    assert num_fetched == 1
    assert sha256_of(first) == model.gguf_sha256
    assert first.name == Path(MEMBER).name
    assert not (cache_dir / "partial").exists() or list((cache_dir / "partial").iterdir()) == []


def test_offline_an_absent_file_is_not_downloaded(tmp_path: Path, model: PackagedModel) -> None:
    with pytest.raises(ModelNotFound, match="offline"):
        resolve_gguf("tiny", cache_dir=tmp_path, offline=True)


def test_a_gguf_file_stands_for_itself_and_so_does_the_directory_that_holds_it(tmp_path: Path) -> None:
    file = tmp_path / "weights.gguf"
    file.write_bytes(b"GGUF")
    assert resolve_gguf(str(file)) == file
    assert resolve_gguf(str(tmp_path)) == file
    assert gguf_location(str(tmp_path)) == file


def test_a_directory_of_several_files_asks_which(tmp_path: Path) -> None:
    (tmp_path / "q4.gguf").touch()
    (tmp_path / "q8.gguf").touch()
    with pytest.raises(ModelNotFound, match=r"several GGUF files \(q4.gguf, q8.gguf\)"):
        resolve_gguf(str(tmp_path))


def test_weights_in_another_form_name_the_program_that_converts_them(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UnsupportedModel, match=r"convert_hf_to_gguf\.py"):
        resolve_gguf(str(tmp_path))


def test_a_model_of_the_hub_is_left_to_llama_cpp() -> None:
    with pytest.raises(UnsupportedModel, match=r"llama\.cpp downloads GGUF files of the hub itself"):
        resolve_gguf("hf:owner/name")
