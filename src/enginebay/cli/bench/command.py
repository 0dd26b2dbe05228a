"""`enginebay bench`: which of its journeys the flags ask for."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from enginebay.cli.bench.capacity import search_capacity
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
from enginebay.cli.bench.folder import demand_usable, stays
from enginebay.cli.bench.heeding import demand_heeded
from enginebay.cli.bench.measuring import job_of_config, measure
from enginebay.cli.bench.planning import overridden_settings
from enginebay.cli.bench.replaying import folder_beside, replay_result
from enginebay.cli.bench.reporting import check_result_flags
from enginebay.cli.bench.self_checking import self_check
from enginebay.cli.bench.servers import configure_servers, default_folder
from enginebay.cli.bench.sweeping import read_sweep
from enginebay.clock import Clock, MonotonicClock
from enginebay.config.loader import load_config
from enginebay.config.models import Config
from enginebay.errors import ConfigError
from enginebay.loadtest.files import write_atomically
from enginebay.loadtest.result_folder import CAPACITY, RESULT, claimed
from enginebay.loadtest.schedule import Speed
from enginebay.probes.recognising import server_address

WRITTEN_CONFIG = "bench.yaml"
"""Of servers and sweeps, in the folder of results."""


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
    console, clock = Console(), MonotonicClock()
    _demand_one_source(config, servers, other)
    demand_heeded(backend, load, servers, result, other)
    if result.resume and result.overwrite:
        raise ConfigError("--resume and --overwrite exclude each other", expected="one of them")
    if other.self_check:
        return self_check(console)
    if other.capacity:
        _demand_flags_of_a_search(load, result)
    folder = _folder(config, servers, result, other)
    with claimed(folder):
        if other.replay is not None:
            return replay_result(
                other.replay, config, folder=folder, load=load, flags=result, clock=clock, console=console
            )
        chosen = _chosen(config, backend, servers, result, other, folder=folder, clock=clock, console=console)
        return _measured(chosen, load, result, other, clock=clock, console=console)


def _measured(
    chosen: _Chosen, load: LoadFlags, result: ResultFlags, other: OtherFlags, *, clock: Clock, console: Console
) -> int:
    settings = overridden_settings(chosen.config.bench, load.given)
    if other.capacity:
        return search_capacity(
            chosen.config, chosen.path, chosen.names, settings=settings, folder=chosen.folder, flags=result,
            clock=clock, console=console,
        )  # fmt: skip
    check_result_flags(result, num_backends=len(chosen.names))
    job = job_of_config(
        chosen.config, chosen.path, chosen.names, settings=settings, folder=chosen.folder, clock=clock,
        speeds=chosen.speeds,
    )  # fmt: skip
    return measure(job, result, console=console, clock=clock)


def _demand_one_source(config: Path | None, servers: ServerFlags, other: OtherFlags) -> None:
    """A config may go with --replay: where the one of the result has been moved to."""
    given = {"--url": servers.url, "--replay": other.replay, "--self-check": other.self_check}
    asked = [name for name, value in given.items() if value]
    if len(asked) > 1 or (asked and config is not None and asked != ["--replay"]):
        names = " and ".join([*(["a config"] if config else []), *asked])
        raise ConfigError(f"{names} exclude each other", expected="one of them")
    if not asked and config is None:
        raise ConfigError("there is nothing to measure", expected="a config file, or --url http://...")
    if not servers.url and (servers.api_key_env or servers.model or servers.tokenizer or servers.minutes is not None):
        raise ConfigError(
            "--api-key-env, --model, --tokenizer and --minutes go with --url",
            expected="in a config: options.api_key, model and engine.tokenizer of the entry; bench.num_requests",
        )
    if (other.sweep or other.capacity) and (other.replay or other.self_check):
        raise ConfigError(
            "--sweep and --capacity need a load of their own", expected="neither --replay nor --self-check"
        )


def _demand_flags_of_a_search(load: LoadFlags, result: ResultFlags) -> None:
    """A search finds its loads by itself and gives no verdict: what it would not heed is refused."""
    unheeded = {
        "--users": load.users, "--rate": load.rate, "--requests": load.requests, "--arrivals": load.arrivals,
        "--burstiness": load.burstiness, "--picture": result.picture,
        "--fail-on": result.fail_on, "--junit": result.junit, "--markdown": result.markdown,
    }  # fmt: skip
    if given := [name for name, value in unheeded.items() if value is not None and value is not False]:
        heeded = "--starts, --seed, --out, --resume and --overwrite, or bench.capacity"
        raise ConfigError(f"{given[0]} is not for --capacity", expected=heeded)


# ---------------------------------------------------------------- which config


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    config: Config
    path: Path
    names: list[str]
    """What is measured of it."""
    folder: Path
    speeds: Mapping[str, Speed] = field(default_factory=dict[str, Speed])
    """Of those that were asked already, by name."""


def _folder(config: Path | None, servers: ServerFlags, result: ResultFlags, other: OtherFlags) -> Path:
    """Of the results, known before anything is asked."""
    if result.out is not None:
        return result.out
    if other.replay is not None:
        return folder_beside(other.replay)
    if servers.url:
        return default_folder(servers.url)
    assert config is not None, "demanded above"
    return Path("out") / (f"{config.stem}-{other.sweep.stem}" if other.sweep else config.stem)


def _chosen(
    config: Path | None,
    backend: list[str] | None,
    servers: ServerFlags,
    result: ResultFlags,
    other: OtherFlags,
    *,
    folder: Path,
    clock: Clock,
    console: Console,
) -> _Chosen:
    file = CAPACITY if other.capacity else RESULT
    if servers.url:
        return _written_for_servers(servers, result, file, backend=backend, folder=folder, clock=clock, console=console)
    assert config is not None, "demanded above"
    if other.sweep is not None:
        return _written_for_sweep(other.sweep, config, result, file, backend=backend, folder=folder)
    demand_usable(folder, file, result)
    loaded = load_config(config)
    names = backend or [loaded.backend]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"--backend {sorted(repeated)[0]} is given twice", expected="each name once")
    return _Chosen(config=loaded, path=config, names=names, folder=folder)


def _written_for_servers(
    servers: ServerFlags,
    result: ResultFlags,
    file: str,
    *,
    backend: list[str] | None,
    folder: Path,
    clock: Clock,
    console: Console,
) -> _Chosen:
    """The config that fits them, written into the folder of results; the one that is there where results stay."""
    urls = servers.url or []
    if len(urls) > 2 or backend:
        raise ConfigError("--url takes one server or two", expected="a config with --backend for more")
    path = folder / WRITTEN_CONFIG
    demand_usable(folder, file, result)
    speeds: Mapping[str, Speed] = {}
    if path.is_file() and stays(folder, file, result):
        _demand_nothing_told(servers, path)
    else:
        check_result_flags(result, num_backends=len(urls))
        configured = configure_servers(
            urls,
            clock=clock,
            console=console,
            api_key_env=servers.api_key_env,
            model=servers.model,
            tokenizer=servers.tokenizer,
            seed=secrets.randbelow(2**31),
            minutes=servers.minutes,
        )
        speeds = configured.speeds
        write_atomically(path, configured.text.encode())
        console.print(f"{path.name:12} {path}", highlight=False, soft_wrap=True, markup=False)
    loaded = load_config(path)
    if [entry.url for entry in loaded.backends.values()] != [server_address(url) for url in urls]:
        raise ConfigError(f"{path} is about other servers", expected="the addresses of before, or another --out")
    return _Chosen(config=loaded, path=path, names=list(loaded.backends), folder=folder, speeds=speeds)


def _demand_nothing_told(servers: ServerFlags, path: Path) -> None:
    told = {
        "--api-key-env": servers.api_key_env, "--model": servers.model, "--tokenizer": servers.tokenizer,
        "--minutes": servers.minutes,
    }  # fmt: skip
    if given := [name for name, value in told.items() if value is not None]:
        raise ConfigError(
            f"{given[0]}: {path} tells it already, and results were measured with that",
            expected=f"the command without {given[0]}, or another --out",
        )


def _written_for_sweep(
    sweep: Path, config: Path, result: ResultFlags, file: str, *, backend: list[str] | None, folder: Path
) -> _Chosen:
    """One entry for each variant, written into the folder of results."""
    if backend and len(backend) > 1:
        raise ConfigError("--sweep varies one backend", expected="--backend once")
    variants = read_sweep(sweep, config, backend=backend[0] if backend else None)
    path = folder / WRITTEN_CONFIG
    demand_usable(folder, file, result)
    if not (path.is_file() and stays(folder, file, result)):
        write_atomically(path, variants.text.encode())
    elif path.read_bytes() != variants.text.encode():
        raise ConfigError(
            f"{path} was written from another sweep or config, and results were measured with it",
            expected="the files of before (more starts: --starts), or another --out",
        )
    return _Chosen(config=load_config(path), path=path, names=variants.names, folder=folder)
