"""The part of a page that a benchmark writes, between two comments."""

from __future__ import annotations


def with_section(page: str, text: str, *, begin: str, end: str) -> str:
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{text}\n{end}{after}"
