"""The file of `--extra_llm_api_options`: arguments of `LLM` as YAML. What it says wins over the command line."""

from __future__ import annotations

import io
from collections.abc import Mapping

from ruamel.yaml import YAML

OPTIONS_FILE = "llm_options.yaml"


def options_yaml(keys: Mapping[str, object]) -> str:
    """keys: nested. Sorted, so that equal options are equal files."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    text = io.StringIO()
    yaml.dump({key: keys[key] for key in sorted(keys)}, text)
    return text.getvalue()
