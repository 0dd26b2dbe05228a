from __future__ import annotations

import pytest

from enginebay.backends.launch.image import is_pinned


@pytest.mark.parametrize("tag", ["", ":latest", ":latest-cu130", ":main", ":main-amd64", ":nightly-py3", ":dev"])
def test_an_image_that_is_another_one_tomorrow_is_not_pinned(tag: str) -> None:
    assert not is_pinned(f"registry.test:5000/engine{tag}")


@pytest.mark.parametrize("tag", [":v0.5.23", ":25.12-trtllm-python-py3", ":latest@sha256:" + "a" * 64])
def test_a_release_and_a_digest_are_pinned(tag: str) -> None:
    assert is_pinned(f"registry.test:5000/engine{tag}")
