"""Images of engines: one that is another one tomorrow makes two runs of one config runs of two engines."""

from __future__ import annotations

_MOVING = ("latest", "main", "nightly", "dev")


def is_pinned(image: str) -> bool:
    """Whether it has a digest, or a tag that does not begin like those that move (`latest-cu130` moves too)."""
    if "@sha256:" in image:
        return True
    tag = image.rpartition("/")[2].partition(":")[2]
    return bool(tag) and not tag.startswith(_MOVING)
