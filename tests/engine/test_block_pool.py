from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginebay.engine.block_pool import BlockPool


def test_every_block_is_handed_out_once_and_the_scratch_block_never():
    pool = BlockPool(5)
    assert sorted(pool.allocate(5)) == [1, 2, 3, 4, 5]
    assert (pool.num_free, pool.num_owned) == (0, 5)


def test_a_shared_block_is_free_when_its_last_owner_releases_it():
    pool = BlockPool(3)
    table = pool.allocate(2)
    pool.share(table[:1])
    pool.release(table)
    assert pool.num_free == 2
    pool.check_integrity([table[:1]])
    pool.release(table[:1])
    assert pool.num_free == 3
    pool.check_integrity([])


def test_our_own_mistakes_are_caught():
    pool = BlockPool(3)
    table = pool.allocate(2)
    with pytest.raises(AssertionError, match="asked for"):
        pool.allocate(2)
    with pytest.raises(AssertionError, match="owned"):
        pool.check_integrity([])
    pool.release(table)
    with pytest.raises(AssertionError, match="released twice"):
        pool.release(table)
    with pytest.raises(AssertionError, match="cannot be shared"):
        pool.share(table)


@given(st.lists(st.tuples(st.sampled_from(["allocate", "share", "release"]), st.integers(0, 6)), max_size=60))
def test_free_and_owned_blocks_are_all_blocks_after_any_history(history: list[tuple[str, int]]):
    pool = BlockPool(12)
    tables: list[list[int]] = []
    for action, number in history:
        if action == "allocate" and number <= pool.num_free:
            tables.append(pool.allocate(number))
        elif action == "share" and tables:
            table = list(tables[number % len(tables)])
            pool.share(table)
            tables.append(table)
        elif action == "release" and tables:
            pool.release(tables.pop(number % len(tables)))
        pool.check_integrity(tables)
        assert pool.num_free + pool.num_owned == pool.num_blocks
