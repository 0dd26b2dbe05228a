"""The plugin of pytest: `pytest --backend KIND` runs the conformance suite on an installed kind, without any file.

Where `--backend` is not given it adds its options and imports nothing. A project that has an option `--backend` of its
own keeps it, and has ours as `--enginebay-backend`.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

_BACKEND, _CONFIG, _OPTION = "enginebay_backend", "enginebay_backend_config", "enginebay_backend_option"
_OPTIONS: dict[str, dict[str, Any]] = {
    "backend": {"dest": _BACKEND, "metavar": "KIND", "help": "Run the conformance suite on this kind of backend."},
    "backend-config": {"dest": _CONFIG, "metavar": "FILE", "help": "A config with --backend as an entry or a kind."},
    "backend-option": {
        "dest": _OPTION,
        "metavar": "KEY=VALUE",
        "action": "append",
        "help": "Argument of get_backend: model, url, mode, an engine setting or an option of the kind. Repeatable.",
    },
}
_CLASS = pytest.StashKey[type]()
_HERE = Path(__file__)


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(parser: pytest.Parser) -> Generator[None, None, None]:
    """After the project's own options, so that ours give way."""
    yield
    group = parser.getgroup("enginebay", "conformance of EngineBay backends")
    for name, keywords in _OPTIONS.items():
        ours = [f"--enginebay-{name}"]
        group.addoption(*ours, *(() if _is_taken(parser, name) else (f"--{name}",)), **keywords)


def _is_taken(parser: pytest.Parser, name: str) -> bool:
    """Whether the project has an option of this name."""
    _, unknown = parser.parse_known_and_unknown_args([f"--{name}=x"])
    return f"--{name}=x" not in unknown


def pytest_configure(config: pytest.Config) -> None:
    """What is wrong with the kind or its options ends pytest here, as any wrong option does."""
    if not _is_asked(config):
        return
    from enginebay.testing.conformance_of_a_kind import conformance_class

    config.stash[_CLASS] = conformance_class(
        str(config.getoption(_BACKEND)),
        config_file=config.getoption(_CONFIG),
        options=config.getoption(_OPTION) or (),
    )
    paths = list(config.args) if config.args_source is pytest.Config.ArgsSource.ARGS else []
    config.args = [*paths, str(_HERE)]


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """This very file stands for the suite: it is on the command line, and the module is made up."""
    if module_path != _HERE or not _is_asked(parent.config):
        return None
    kind = str(parent.config.getoption(_BACKEND))
    return _Suite.from_parent(parent, path=module_path, nodeid=kind)


def _is_asked(config: pytest.Config) -> bool:
    return config.getoption(_BACKEND, None) is not None


class _Suite(pytest.Module):
    """A module that holds one class."""

    def _getobj(self) -> ModuleType:
        module = ModuleType("enginebay_conformance")
        vars(module)["TestBackend"] = self.config.stash[_CLASS]
        return module
