"""`enginebay bench`: which of its journeys the flags ask for."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from enginebay.cli.bench.flags import (
    NO_LOAD,
    NO_OTHER,
    NO_RESULT,
    NO_SERVERS,
    WHAT,
    LoadFlags,
    OtherFlags,
    ResultFlags,
    ServerFlags,
)
from enginebay.cli.bench.measuring import job_of_config, measure
from enginebay.cli.bench.planning import overridden_settings
from enginebay.cli.bench.reporting import check_result_flags
from enginebay.cli.bench.servers import configure_servers, default_folder
from enginebay.clock import MonotonicClock
from enginebay.config.loader import load_config
from enginebay.errors import ConfigError
from enginebay.loadtest.files import write_atomically


def bench(
    config: Annotated[
        Path | None, Parameter(group=WHAT, help="Config file; its `bench:` section is the load. None with --url.")
    ] = None,
    /,
    *,
    backend: Annotated[
        list[str] | None,
        Parameter(
            group=WHAT,
            negative="",
            help="An entry of the config, or a kind; repeat it to compare. Else the config's own.",
        ),
    ] = None,
    load: LoadFlags = NO_LOAD,
    servers: ServerFlags = NO_SERVERS,
    result: ResultFlags = NO_RESULT,
    other: OtherFlags = NO_OTHER,
) -> int:
    """What it does is told in `help_text`; here the flags find their journey."""
    console = Console()
    _demand_one_source(config, servers, other)
    if servers.url:
        return _measure_servers(servers.url, servers, load, result, backend=backend, console=console)
    if config is None:
        raise ConfigError("there is nothing to measure", expected="a config file, or --url http://...")
    loaded = load_config(config)
    clock = MonotonicClock()
    names = _distinct(backend or [loaded.backend])
    check_result_flags(result, num_backends=len(names))
    job = job_of_config(
        loaded,
        config,
        names,
        settings=overridden_settings(loaded.bench, load.given),
        folder=result.out or Path("out") / config.stem,
        clock=clock,
    )
    return measure(job, result, console=console, clock=clock)


def _demand_one_source(config: Path | None, servers: ServerFlags, other: OtherFlags) -> None:
    given = [
        name
        for name, value in (
            ("a config", config), ("--url", servers.url), ("--replay", other.replay), ("--self-check", other.self_check)
        )
        if value
    ]  # fmt: skip
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} exclude each other", expected="one of them")
    if not servers.url and (servers.api_key_env or servers.model or servers.tokenizer):
        raise ConfigError(
            "--api-key-env, --model and --tokenizer go with --url", expected="the same in the config: options.api_key, "
            "model and engine.tokenizer of the entry",
        )  # fmt: skip


def _measure_servers(
    urls: Sequence[str],
    servers: ServerFlags,
    load: LoadFlags,
    result: ResultFlags,
    *,
    backend: list[str] | None,
    console: Console,
) -> int:
    """The config that fits them is written into the folder of results, and measured like any other."""
    if len(urls) > 2 or backend:
        raise ConfigError("--url takes one server or two", expected="a config with --backend for more")
    check_result_flags(result, num_backends=len(urls))
    clock = MonotonicClock()
    text = configure_servers(
        urls,
        clock=clock,
        console=console,
        api_key_env=servers.api_key_env,
        model=servers.model,
        tokenizer=servers.tokenizer,
        seed=secrets.randbelow(2**31),
    )
    folder = result.out or default_folder(urls)
    config_path = folder / "bench.yaml"
    write_atomically(config_path, text.encode())
    loaded = load_config(config_path)
    console.print(f"config       {config_path}", highlight=False, soft_wrap=True)
    job = job_of_config(
        loaded,
        config_path,
        list(loaded.backends),
        settings=overridden_settings(loaded.bench, load.given),
        folder=folder,
        clock=clock,
    )
    return measure(job, result, console=console, clock=clock)


def _distinct(names: list[str]) -> list[str]:
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"--backend {sorted(repeated)[0]} is given twice", expected="each name once")
    return names
