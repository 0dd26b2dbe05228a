import pytest

from enginebay.models.fingerprint import SAMPLE_BYTES, fingerprint


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"h" + b"\0" * (3 * SAMPLE_BYTES) + b"t")
    return tmp_path


def test_the_same_files_have_the_same_fingerprint_wherever_they_lie(directory, tmp_path_factory) -> None:
    other = tmp_path_factory.mktemp("other")
    for path in directory.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    assert fingerprint(directory) == fingerprint(other)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"[]"),
        ("added.json", b""),
        ("model.safetensors", b"x" + b"\0" * (3 * SAMPLE_BYTES) + b"t"),
        ("model.safetensors", b"h" + b"\0" * (3 * SAMPLE_BYTES) + b"x"),
        ("model.safetensors", b"h" + b"\0" * (3 * SAMPLE_BYTES + 1) + b"t"),
    ],
)
def test_another_header_end_size_or_name_gives_another(directory, name, content) -> None:
    before = fingerprint(directory)
    (directory / name).write_bytes(content)
    assert fingerprint(directory) != before


def test_what_a_download_leaves_beside_the_model_does_not_count(directory) -> None:
    before = fingerprint(directory)
    (directory / ".cache").mkdir()
    (directory / ".cache" / "lock").write_text("x")
    assert fingerprint(directory) == before
