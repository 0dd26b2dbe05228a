"""`enginebay keys`: the API keys of a gateway, in the database that its config names."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from enginebay.config.gateway import GatewayConfig
from enginebay.config.loader import load_config
from enginebay.errors import ConfigError
from enginebay.gateway.access.keys import key_id_of
from enginebay.gateway.access.records import KeyRecord, NewKey
from enginebay.gateway.access.scopes import SCOPES
from enginebay.gateway.access.store import KeyStore
from enginebay.gateway.database import open_database
from enginebay.gateway.doorkeeper import INFERENCE

_DAY_S = 86_400
ConfigPath = Annotated[Path, Parameter(help="Config of the gateway, which names its database.")]
KeyId = Annotated[str, Parameter(help="Id of the key, or the whole key.")]


def create(
    config: ConfigPath,
    name: Annotated[str, Parameter(help="Whose key it is, for people: shown in lists and costs.")],
    /,
    *,
    scope: Annotated[Sequence[str], Parameter(help=f"Some of {', '.join(SCOPES)}.", negative="")] = (INFERENCE,),
    model: Annotated[
        Sequence[str], Parameter(help="Only these models of the config; else all of them.", negative="")
    ] = (),
    tier: Annotated[str | None, Parameter(help="One of gateway.limits.tiers, instead of gateway.limits.key.")] = None,
    days: Annotated[float | None, Parameter(help="How long it is valid; else until it is revoked.")] = None,
) -> None:
    """Make a key. It is printed once, alone on standard output; only its hash is kept."""
    gateway = _gateway(config)
    _demand_known("--scope", scope, SCOPES)
    _demand_known("--model", model, gateway.models)
    tiers = gateway.limits.tiers if gateway.limits is not None else {}
    _demand_known("--tier", [] if tier is None else [tier], tiers)
    if days is not None and not days > 0:
        raise ConfigError(f"--days is {days:g}", expected="a number greater than 0")
    with _store(gateway) as store:
        expires_at_unix = None if days is None else time.time() + days * _DAY_S
        made = store.create(name, scopes=scope, models=model or None, tier=tier or "", expires_at_unix=expires_at_unix)
    _show_once(made, f"the key {made.record.key_id} of {name!r}")


def list_keys(
    config: ConfigPath,
    /,
    *,
    as_json: Annotated[bool, Parameter(name="--json", help="Print JSON instead of a table.", negative="")] = False,
) -> None:
    """List the keys, without their secrets."""
    with _store(_gateway(config), must_exist=True) as store:
        records = store.all()
    if as_json:
        print(msgspec.json.encode([_plain(record) for record in records]).decode())
    elif records:
        Console(markup=False, highlight=False).print(_table(records))
    else:
        print("there are no keys yet: `enginebay keys create` makes one", file=sys.stderr)


def revoke(config: ConfigPath, key: KeyId, /) -> None:
    """End a key for good; a running gateway refuses it within a second."""
    with _store(_gateway(config), must_exist=True) as store:
        record = store.revoke(key_id_of(key) or key)
    print(f"revoked: {record.key_id} of {record.name!r}")


def rotate(
    config: ConfigPath,
    key: KeyId,
    /,
    *,
    overlap_s: Annotated[float, Parameter(help="How long the old secret is still good, in seconds.")] = _DAY_S,
) -> None:
    """Give a key a new secret. Its id, limits, budget and costs go on; the old secret ends after an overlap."""
    if not overlap_s >= 0:
        raise ConfigError(f"--overlap-s is {overlap_s:g}", expected="a number of at least 0")
    with _store(_gateway(config), must_exist=True) as store:
        made = store.rotate(key_id_of(key) or key, overlap_s=overlap_s)
    _show_once(made, f"the new secret of {made.record.key_id}; the old one is good for {overlap_s:g} s more")


def _gateway(config: Path) -> GatewayConfig:
    gateway = load_config(config).gateway
    if gateway is None or gateway.access is None:
        raise ConfigError("nobody would be asked for a key", file=str(config), path="gateway.access", expected="{}")
    return gateway


@contextmanager
def _store(gateway: GatewayConfig, *, must_exist: bool = False) -> Generator[KeyStore, None, None]:
    database = open_database(str(gateway.database), must_exist=must_exist)
    try:
        yield KeyStore(database)
    finally:
        database.close()


def _demand_known(option: str, given: Sequence[str], known: Collection[str]) -> None:
    for value in given:
        if value not in known:
            close = get_close_matches(value, known, n=1)
            raise ConfigError(
                f"{option} {value!r} is not known",
                expected=f"one of {', '.join(known)}" if known else "none: the config has no such section",
                suggestion=close[0] if close else None,
            )


def _show_once(made: NewKey, what: str) -> None:
    print(f"{what} (shown once; only its hash is kept):", file=sys.stderr)
    print(made.text)


def _table(records: Sequence[KeyRecord]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("id", "name", "state", "scopes", "models", "tier", "made", "expires"):
        table.add_column(heading, no_wrap=heading == "id", overflow="fold")
    for record in records:
        models = "all" if record.models is None else ", ".join(sorted(record.models))
        scopes = ", ".join(sorted(record.scopes))
        expires = "" if record.expires_at_unix is None else _day(record.expires_at_unix)
        made = _day(record.created_at_unix)
        table.add_row(record.key_id, record.name, _state(record), scopes, models, record.tier, made, expires)
    return table


def _plain(record: KeyRecord) -> dict[str, object]:
    return {
        "key_id": record.key_id,
        "name": record.name,
        "state": _state(record),
        "scopes": sorted(record.scopes),
        "models": None if record.models is None else sorted(record.models),
        "tier": record.tier,
        "created_at_unix": record.created_at_unix,
        "expires_at_unix": record.expires_at_unix,
        "revoked_at_unix": record.revoked_at_unix,
    }


def _state(record: KeyRecord) -> str:
    if record.revoked_at_unix is not None:
        return "revoked"
    return "valid" if record.is_valid(time.time()) else "expired"


def _day(instant_unix: float) -> str:
    return f"{datetime.fromtimestamp(instant_unix, UTC):%Y-%m-%d}"
