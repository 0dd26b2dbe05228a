"""`enginebay config validate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from enginebay.config.loader import load_config
from enginebay.configured import config_problems, entry_names
from enginebay.errors import BackendNotFound, ConfigError, EngineBayError


def validate(
    config: Annotated[tuple[Path, ...], Parameter(help="Config files.", negative="")],
    /,
    *,
    require_installed: Annotated[
        bool, Parameter(help="A backend that is not installed is an error.", negative="")
    ] = False,
) -> int:
    """Check config files: keys, types, variables, and each backend's mode, settings and options.

    A backend that is not installed here cannot be checked against its plugin; that is said, and no error unless
    asked for. Exit code 2 where a file is wrong.
    """
    is_sound = True
    for path in config:
        is_sound &= _validate_one(path, require_installed)
    return 0 if is_sound else 2


def _validate_one(path: Path, require_installed: bool) -> bool:
    try:
        loaded = load_config(path)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    errors: list[EngineBayError] = []
    for problem in config_problems(loaded):
        if isinstance(problem, BackendNotFound) and not require_installed:
            print(f"note: {path}: {problem}", file=sys.stderr)
        else:
            errors.append(problem)
    for error in errors:
        print(f"error: {error if isinstance(error, ConfigError) else f'{path}: {error}'}", file=sys.stderr)
    if not errors:
        print(f"{path}: fine; backends: {', '.join(entry_names(loaded))}")
    return not errors
