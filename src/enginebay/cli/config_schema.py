"""`enginebay config schema`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from enginebay.config.schema import config_schema
from enginebay.errors import ConfigError, PluginError
from enginebay.plugins import find_backend, list_backends


def schema(*, out: Annotated[Path | None, Parameter(help="Write it to this file.")] = None) -> None:
    """Print the JSON Schema of configs, with the options of every installed backend.

    For completion and checks in an editor, let the first line of a config be
    `# yaml-language-server: $schema=enginebay.schema.json`.
    """
    options = {}
    for backend in list_backends():
        try:
            options[backend.kind] = find_backend(backend.kind).options_model
        except PluginError as error:
            print(f"note: no options of {backend.kind!r} in the schema: {error}", file=sys.stderr)
    text = json.dumps(config_schema(options), indent=2) + "\n"
    if out is None:
        sys.stdout.write(text)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", file=str(out)) from error
