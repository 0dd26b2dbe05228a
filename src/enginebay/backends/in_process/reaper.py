"""Takes down what a worker leaves behind: an engine's own processes, when the worker was killed with its parent.

The kernel kills the worker when its parent dies, but not the worker's children, and a killed worker can't.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import time

FOLDER_VARIABLE = "ENGINEBAY_WORKER_FOLDER"
"""The private folder of the worker, of no use after it; its parent may be gone too."""
_POLL_INTERVAL_S = 0.2


def fork_reaper() -> None:
    """Before any thread is started. The reaper is in the worker's process group and dies with it."""
    worker = os.getpid()
    if os.getpgid(0) != worker:
        return  # not launched as a leader of its own group: others live in it
    if os.fork() == 0:
        try:
            _reap(worker)
        finally:
            os._exit(0)


def _reap(worker: int) -> None:
    _let_go_of_files()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _wait_for_the_end_of(worker)
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    os.killpg(worker, signal.SIGKILL)  # this process too


def _let_go_of_files() -> None:
    """An inherited socket or pipe would look open to the parent as long as this process lives."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


def _wait_for_the_end_of(worker: int) -> None:
    """Its own parent: by a descriptor of the process where the system has them, else by asking now and then."""
    poll = select.poll()
    try:
        poll.register(os.pidfd_open(worker), select.POLLIN)
    except (AttributeError, OSError):  # not here, or forbidden
        while os.getppid() == worker:
            time.sleep(_POLL_INTERVAL_S)
        return
    if os.getppid() == worker:
        poll.poll()
