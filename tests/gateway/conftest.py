from collections.abc import Iterator

import pytest
from running_server import RunningServer
from scripted_backend import ScriptedBackend


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(ScriptedBackend) as running:
        yield running
