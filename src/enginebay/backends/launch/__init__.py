"""Servers of foreign engines that we start: a child process or a container, and never one left behind.

`server.py` is what a plugin uses, `command.py`, `docker.py` and `model.py` what its command line is made of.
`worker/supervisor.py` runs between us and the engine; it outlives us by just as long as the engine needs to end.
"""

from enginebay.backends.launch.command import at_port, run_command
from enginebay.backends.launch.docker import docker_run
from enginebay.backends.launch.model import container_model_argument, model_argument
from enginebay.backends.launch.server import LaunchedServer, launched_server

__all__ = [
    "LaunchedServer",
    "at_port",
    "container_model_argument",
    "docker_run",
    "launched_server",
    "model_argument",
    "run_command",
]
