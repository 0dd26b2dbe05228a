"""Release lines of TensorRT-LLM: which one a version belongs to, and the images that carry it."""

from __future__ import annotations

import re
from typing import Literal, get_args

from enginebay.backend import BackendContext
from enginebay.backends.launch.image import is_pinned
from enginebay.errors import ConfigError

Line = Literal["1.2", "1.3", "1.4"]
LINES: tuple[Line, ...] = get_args(Line)
NEWEST_STABLE = "1.2.1"
SERVE_IMAGE = "nvcr.io/nvidia/tensorrt-llm/release"
TRITON_IMAGE = "nvcr.io/nvidia/tritonserver:25.12-trtllm-python-py3"

_VERSION = re.compile(r"v?(\d+)\.(\d+)")


def line_of(version: str | None) -> Line:
    """None is the newest stable release. Raises ConfigError for a line whose flags are not known."""
    match = _VERSION.match(version or NEWEST_STABLE)
    found = f"{match.group(1)}.{match.group(2)}" if match else None
    for line in LINES:
        if line == found:
            return line
    raise ConfigError(
        f"the flags of TensorRT-LLM {version} are not known", path="options.version", expected=", ".join(LINES)
    )


def version_of(context: BackendContext) -> str | None:
    """`options.version`, else the tag of the image where that is a version of ours."""
    if context.options.version is not None:
        return context.options.version
    name, _, tag = (context.image or "").rpartition(":")
    return tag if name.endswith("tensorrt-llm/release") and _VERSION.match(tag) else None


def image_of(context: BackendContext) -> str:
    """Pinned: the entry's own, else the one of the version."""
    if context.image is not None:
        return context.image
    return TRITON_IMAGE if context.options.api == "triton" else f"{SERVE_IMAGE}:{version_of(context) or NEWEST_STABLE}"


def demand_pinned(image: str | None) -> None:
    """Raise ConfigError for an image that means another one tomorrow."""
    if image is not None and not is_pinned(image):
        raise ConfigError(
            f"the image {image} is not pinned", path="image", expected=f"a tag, such as {SERVE_IMAGE}:{NEWEST_STABLE}"
        )
