"""Workers for the child process that behave well or badly."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from enginebay.backends.worker.channel import ChildChannel
from enginebay.errors import ConfigError


def echo(channel: ChildChannel) -> None:
    while not channel.is_closed:
        for frame in channel.receive(None):
            channel.send(frame)


def talk_and_crash(channel: ChildChannel) -> None:
    for number in range(500):
        print(f"line {number}")
    sys.stdout.write("no end of line, " * 1000)
    raise RuntimeError("the last word")


def refuse_setting(channel: ChildChannel) -> None:
    raise ConfigError("it is wrong", path="engine.policy")


def abort(channel: ChildChannel) -> None:
    os.abort()


def ignore_everything(channel: ChildChannel) -> None:
    """Has a child of its own that holds the pipe of the log, and does not end when it is asked to."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    channel.send(str(child.pid).encode())
    while True:
        time.sleep(600)


def leave_a_child(channel: ChildChannel) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    channel.send(str(child.pid).encode())
    os._exit(0)


def leave_a_daemon(channel: ChildChannel) -> None:
    """Out of reach of a signal to the worker's group, and it holds the pipe of the log."""
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    child = subprocess.Popen(command, start_new_session=True)
    channel.send(str(child.pid).encode())
    os._exit(0)
