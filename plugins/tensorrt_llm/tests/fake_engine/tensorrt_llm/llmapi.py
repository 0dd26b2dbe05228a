"""The configuration objects of the contract's `config_imports`."""

from __future__ import annotations

from typing import Any


class _Config:
    def __init__(self, **given: Any) -> None:
        self.__dict__.update(given)


class KvCacheConfig(_Config):
    pass


class NGramDecodingConfig(_Config):
    def __init__(self, *, max_draft_len: int) -> None:
        super().__init__(max_draft_len=max_draft_len)


class DraftTargetDecodingConfig(_Config):
    pass


class EagleDecodingConfig(_Config):
    pass
