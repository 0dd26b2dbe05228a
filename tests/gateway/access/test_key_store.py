from collections.abc import Iterator
from pathlib import Path

import pytest

from enginebay.errors import InvalidRequest
from enginebay.gateway.access.keys import hash_of, key_id_of, new_key_text
from enginebay.gateway.access.store import KeyStore
from enginebay.gateway.database import open_database


class Wall:
    def __init__(self) -> None:
        self.now_unix = 1000.0

    def __call__(self) -> float:
        return self.now_unix


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def store(database_url: str, wall: Wall) -> Iterator[KeyStore]:
    database = open_database(database_url)
    yield KeyStore(database, unix_time=wall)
    database.close()


def test_a_key_comes_back_as_it_was_made(store: KeyStore) -> None:
    made = store.create("ci", scopes=["inference"], models=["small", "big"], tier="gold", expires_at_unix=5000)
    found = store.find(made.record.key_id)
    assert found is not None
    assert found == made.record
    assert found.scopes == {"inference"}
    assert found.models == {"small", "big"}
    assert (found.name, found.tier, found.created_at_unix, found.expires_at_unix) == ("ci", "gold", 1000, 5000)
    assert key_id_of(made.text) == found.key_id
    assert found.accepts(hash_of(made.text), 4999.9)


def test_no_models_is_another_thing_than_all_of_them(store: KeyStore) -> None:
    assert store.create("all", scopes=["inference"]).record.models is None
    assert store.create("none", scopes=["inference"], models=[]).record.models == frozenset()


def test_a_key_is_valid_for_its_own_secret_alone_and_until_it_expires(store: KeyStore) -> None:
    made = store.create("ci", scopes=["inference"], expires_at_unix=2000)
    other = store.create("ci", scopes=["inference"])
    assert not made.record.accepts(hash_of(other.text), 1000)
    assert not made.record.accepts(hash_of(new_key_text(made.record.key_id)), 1000)
    assert not made.record.accepts(hash_of(made.text), 2000)


def test_both_secrets_are_good_until_the_overlap_of_a_rotation_ends(store: KeyStore) -> None:
    old = store.create("ci", scopes=["inference"])
    new = store.rotate(old.record.key_id, overlap_s=60)
    record = new.record
    assert record.key_id == old.record.key_id
    assert [record.accepts(hash_of(made.text), 1059.9) for made in (old, new)] == [True, True]
    assert [record.accepts(hash_of(made.text), 1060) for made in (old, new)] == [False, True]


def test_a_second_rotation_prolongs_no_secret(store: KeyStore, wall: Wall) -> None:
    first = store.create("ci", scopes=["inference"])
    store.rotate(first.record.key_id, overlap_s=60)
    wall.now_unix += 30
    record = store.rotate(first.record.key_id, overlap_s=3600).record
    assert record.accepts(hash_of(first.text), 1059)
    assert not record.accepts(hash_of(first.text), 1061)


def test_a_rotation_without_overlap_ends_the_old_secret_at_once(store: KeyStore) -> None:
    old = store.create("ci", scopes=["inference"])
    assert not store.rotate(old.record.key_id, overlap_s=0).record.accepts(hash_of(old.text), 1000)


def test_a_revoked_key_is_no_longer_valid_and_stays_in_the_list_with_its_first_instant(
    store: KeyStore, wall: Wall
) -> None:
    made = store.create("ci", scopes=["inference"])
    store.revoke(made.record.key_id)
    wall.now_unix += 10
    revoked = store.revoke(made.record.key_id)
    assert revoked.revoked_at_unix == 1000
    assert not revoked.accepts(hash_of(made.text), 1000)
    assert [record.key_id for record in store.all()] == [made.record.key_id]
    with pytest.raises(InvalidRequest, match="is revoked or has expired"):
        store.rotate(made.record.key_id, overlap_s=0)


def test_keys_are_listed_in_the_order_in_which_they_were_made(store: KeyStore, wall: Wall) -> None:
    for name in ("c", "a", "b"):
        store.create(name, scopes=["inference"])
        wall.now_unix += 1
    assert [record.name for record in store.all()] == ["c", "a", "b"]


def test_every_change_is_counted_and_looking_is_none(store: KeyStore) -> None:
    counts = [store.num_changes()]
    made = store.create("ci", scopes=["inference"])
    counts.append(store.num_changes())
    store.rotate(made.record.key_id, overlap_s=0)
    counts.append(store.num_changes())
    store.revoke(made.record.key_id)
    counts.append(store.num_changes())
    store.all()
    store.find("unknown")
    assert store.num_changes() == counts[-1]
    assert counts == sorted(set(counts))


def test_a_key_that_is_not_there_is_told(store: KeyStore) -> None:
    assert store.find("0" * 16) is None
    for change in (store.revoke, lambda key_id: store.rotate(key_id, overlap_s=0)):
        with pytest.raises(InvalidRequest, match="there is no key with the id"):
            change("0" * 16)


def test_no_file_of_the_database_holds_a_secret(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/keys.db")
    made = KeyStore(database).create("ci", scopes=["inference"])
    secret = made.text[20:].encode()
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    database.close()
    assert made.record.key_id.encode() in written
    assert secret not in written
    assert hash_of(made.text) in written


def test_a_key_has_a_readable_beginning_and_256_random_bits() -> None:
    texts = {new_key_text("0123456789abcdef") for _ in range(100)}
    assert len(texts) == 100
    assert all(text.startswith("eb-0123456789abcdef-") and len(text) == 20 + 43 for text in texts)
    assert {key_id_of(text) for text in texts} == {"0123456789abcdef"}


@pytest.mark.parametrize("text", ["", "eb-", "eb-0123456789abcdef-short", "sk-" + "a" * 60, "eb-" + "é" * 60])
def test_what_is_no_key_of_ours_has_no_id(text: str) -> None:
    assert key_id_of(text) is None


def test_a_new_key_does_not_show_its_secret_in_a_log(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/keys.db")
    made = KeyStore(database).create("ci", scopes=["inference"])
    database.close()
    assert made.text not in repr(made)
    assert repr(made.record.secrets).count("sha256") == 0
