"""The server of a foreign engine as a backend owns it: what it needs is prepared, then its command is run."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from enginebay.backend import FILES, BackendContext, LaunchPlan
from enginebay.backends.http_engine.options import ServerOptions
from enginebay.backends.launch.environment import inherited_environment
from enginebay.backends.launch.executable import environment_of_venv, program_of, runs_container
from enginebay.backends.launch.in_thread import in_thread
from enginebay.backends.launch.model import fetch_model
from enginebay.backends.launch.port import HOST, chosen_port, stranger_at
from enginebay.backends.launch.supervised import Command, SupervisedProcess
from enginebay.backends.worker.log_ring import LogRing, check_log_file
from enginebay.backends.worker.start_failure import explained
from enginebay.config.secret import MASK, is_secret_key
from enginebay.errors import ConfigError, EngineBayError, StartFailed

_SHORTEST_SECRET = 4
"""Shorter ones would mask half of what is shown."""


def launched_server(
    context: BackendContext,
    plan: LaunchPlan,
    *,
    with_port: Callable[[int], LaunchPlan],
    environment: Mapping[str, str] | None = None,
    install: str | None = None,
    fetch: Callable[[str], object] = fetch_model,
) -> LaunchedServer:
    """The server that `HttpEngineBackend` launches and stops; nothing happens yet.

    with_port(port): the plan with its final command, a `docker run` where that runs a container; its environment and
    files go before those of `plan`. environment: secrets of the engine's own, such as its API key, that no plan shows.
    install: the command that installs the engine, for who has not (`pip install vllm==0.32.0`).
    fetch(source): have the model before the engine asks for it; blocks.
    """
    return LaunchedServer(
        context, plan, with_port=with_port, environment=environment or {}, install=install, fetch=fetch
    )


class LaunchedServer:
    """An `OwnedServer`: single use; `launch`, then `stop`, whatever happened between."""

    def __init__(
        self,
        context: BackendContext,
        plan: LaunchPlan,
        *,
        with_port: Callable[[int], LaunchPlan],
        environment: Mapping[str, str],
        install: str | None,
        fetch: Callable[[str], object],
    ) -> None:
        self._context, self._plan, self._with_port = context, plan, with_port
        self._options: ServerOptions = context.options
        self._secrets, self._install, self._fetch = environment, install, fetch
        self._log_file = Path(self._options.log_file).expanduser() if self._options.log_file else None
        self._log = LogRing(self._log_file)
        self._process: SupervisedProcess | None = None
        self._folder: Path | None = None
        self._port: int | None = None
        self._is_container = False

    # ---------------------------------------------------------------- life

    async def launch(self) -> str:
        port = chosen_port(self._options.port, backend=self._context.name)
        plan = _merged(self._plan, self._with_port(port))
        environment = self._environment(plan)
        arguments = self._arguments(plan, environment)
        check_log_file(self._log_file)
        await self._fetch_model()
        try:
            self._process = SupervisedProcess(
                self._prepared(plan, arguments, environment),
                name=self._context.name,
                stop_timeout_s=self._options.stop_timeout_s,
                log=self._log,
                on_ended=self._remove_files,
            )
            await self._process.start()
        except BaseException:
            if self.pid is None:  # else what was started removes them when it ends
                self._remove_files()
            raise
        self._port = port
        return f"http://{HOST}:{port}"

    async def check_listener(self) -> None:
        leader, port = self.pid, self._port
        if leader is None or port is None or self._is_container:
            return  # the port of a container is the runtime's
        stranger = await in_thread(lambda: stranger_at(port, leader))
        if stranger is not None and self.is_alive:
            raise StartFailed(
                f"{self._context.name}: it is not the engine that answers at port {port} but {stranger}",
                backend=self._context.name,
                likely_cause="it took the port while the engine loaded: end it, or set another options.port",
                log_tail=self.log_tail(),
            )

    @property
    def pid(self) -> int | None:
        """Of the leader of the engine's process group, our supervisor; the engine is its child."""
        return None if self._process is None else self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.is_alive

    async def wait_ended(self) -> None:
        if self._process is not None:
            await self._process.wait_ended()

    def how_it_ended(self) -> str:
        return "was not started" if self._process is None else self._process.how_it_ended()

    def start_failed(self, what: str) -> StartFailed:
        returncode = None if self._process is None else self._process.returncode
        cause, lines = explained(
            returncode=returncode, log=self._log.tail(200), telling=self._log.telling, python="the engine"
        )
        redacted = [self._redacted(line) for line in lines]
        return StartFailed(
            f"{self._context.name}: {what}",
            backend=self._context.name,
            likely_cause=cause and self._redacted(cause),
            log_tail=redacted,
        )

    def log_tail(self) -> list[str]:
        return [self._redacted(line) for line in self._log.tail()]

    def kill(self) -> None:
        """As a crash would end it: at once, with everything that it started. Synchronous."""
        if self._process is not None:
            self._process.kill()

    async def stop(self) -> None:
        if self._process is not None:
            await self._process.stop()
        self._remove_files()

    # ---------------------------------------------------------------- what it needs

    def _environment(self, plan: LaunchPlan) -> dict[str, str]:
        given = {**plan.environment, **self._context.environment, **self._secrets}
        whole = {**inherited_environment(os.environ), "PYTHONUNBUFFERED": "1", **given}
        return environment_of_venv(whole, self._context.venv)

    def _arguments(self, plan: LaunchPlan, environment: Mapping[str, str]) -> tuple[str, ...]:
        if not plan.command:
            raise ConfigError(f"{self._context.name}: the plan has no command to run", path="mode")
        path = environment.get("PATH", os.defpath)
        program = program_of(self._context, plan.command, path=path, install=self._install)
        return (program, *plan.command[1:])

    async def _fetch_model(self) -> None:
        try:
            await in_thread(lambda: self._fetch(self._context.model))
        except StartFailed:
            raise
        except EngineBayError as error:
            raise StartFailed(f"{self._context.name}: {error}", backend=self._context.name) from error

    def _prepared(self, plan: LaunchPlan, arguments: Sequence[str], environment: Mapping[str, str]) -> Command:
        container: tuple[str, str] | None = None
        self._is_container = runs_container(self._context, plan.command)
        if self._is_container:
            container = arguments[0], f"enginebay-{_plain(self._context.name)}-{uuid.uuid4().hex[:8]}"
            arguments = [*arguments[:2], "--name", container[1], *arguments[2:]]
        if plan.files:
            self._folder = _written(plan.files)
            arguments = [argument.replace(FILES, str(self._folder)) for argument in arguments]
        return Command(arguments=arguments, environment=environment, container=container, folder=self._folder)

    def _remove_files(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _redacted(self, text: str) -> str:
        for name, value in {**self._context.environment, **self._secrets}.items():
            if len(value) >= _SHORTEST_SECRET and (name in self._secrets or is_secret_key(name)):
                text = text.replace(value, MASK)
        return text


def _merged(plan: LaunchPlan, final: LaunchPlan) -> LaunchPlan:
    return replace(
        final,
        environment={**plan.environment, **final.environment},
        files={**plan.files, **final.files},
    )


def _plain(name: str) -> str:
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)


def _written(files: Mapping[str, str]) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="enginebay-"))
    folder.chmod(0o755)  # a container may read it as another user
    for name, content in files.items():
        relative = PurePosixPath(name)
        assert not relative.is_absolute(), f"a plan's file is outside of its folder: {name}"
        assert ".." not in relative.parts, f"a plan's file is outside of its folder: {name}"
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return folder
