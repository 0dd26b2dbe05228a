"""What a certificate says. It is made of the saved files alone, so that anybody can make it again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import msgspec

from enginebay.errors import LoadTestError
from enginebay.loadtest.files import write_atomically
from enginebay.loadtest.plan import Load
from enginebay.loadtest.records import RunKey

CERTIFICATE_VERSION = 1
FILE_NAME = "certificate.json"

VARIES = "(varies)"

Level = Literal["bytes", "fields", "counts", "apart"]
"""How far two loads are known to be the same: byte for byte; text and every sampling field, in two dialects; the number
of tokens of each prompt and every sampling field; or not at all."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was sent otherwise than planned, or otherwise to one backend than to another."""

    code: str
    detail: str


class RunAudit(msgspec.Struct, frozen=True, kw_only=True):
    """One run against the plan."""

    run: RunKey
    backend: str
    """Its kind."""
    transport: str
    simulated: bool
    valid: bool
    planned_sha256: str
    """Of what the plan has for this load and start: runs with the same one are set against each other."""
    num_requests: int
    """Sent, each counted once."""
    num_sent_again: int
    """On a new connection, the server having closed the first before it had the request."""
    paths: tuple[str, ...]
    load_sha256: str
    """Over all bodies in the order of the plan, without the model's name and the request's id."""
    prompts_sha256: str
    sampling_sha256: str
    """Over what the plan asks, where every field was sent so or left at what it is anyway."""
    other_fields: dict[str, object]
    """Further fields of the bodies that are the same in all of them; VARIES for one that is not."""
    fields_sent: tuple[str, ...]
    """Sampling fields that stood in every body with the planned value."""
    fields_not_carried: tuple[str, ...]
    """Sampling fields that the dialect cannot carry, or was not given: the plan leaves them off in every request."""
    num_prompt_tokens: int | None
    """By the engine's own usage; None where it did not tell for all."""
    prompt_tokens_sha256: str | None
    """Over those counts in the order of the plan."""
    offset_error_p99_s: float | None
    """From the planned instant to the sending, as the sockets saw it; None in a closed loop."""
    offset_bound_s: float
    faults: tuple[Fault, ...] = ()


class Likeness(msgspec.Struct, frozen=True, kw_only=True):
    """Two runs of one load against each other."""

    load: Load
    first: RunKey
    second: RunKey
    level: Level
    other_fields: tuple[str, ...] = ()
    """Fields beside prompt and sampling that the bodies do not share, as each engine's dialect wants them."""
    problem: str = ""
    """Why they are apart."""


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    version: int = CERTIFICATE_VERSION
    plan_sha256: str
    files: dict[str, str]
    """SHA-256 of plan.json, records.jsonl and sent.jsonl, which it was made of."""
    is_identical: bool
    """Every valid run was sent as planned, and all of one load alike."""
    simulated: bool
    """At least one side is a simulator."""
    runs: tuple[RunAudit, ...]
    likenesses: tuple[Likeness, ...] = ()
    """Of each valid run with the first that was planned the same."""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(canonical_json(self)).hexdigest()

    @property
    def faults(self) -> list[tuple[RunAudit, Fault]]:
        return [(run, fault) for run in self.runs for fault in run.faults]


def canonical_json(value: object) -> bytes:
    return msgspec.json.encode(msgspec.to_builtins(value, str_keys=True), order="sorted")


def save_certificate(certificate: Certificate, folder: Path) -> None:
    content = msgspec.json.format(canonical_json(certificate), indent=2) + b"\n"
    write_atomically(folder / FILE_NAME, content)


def load_certificate(folder: Path) -> Certificate:
    path = folder / FILE_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Certificate)
    except OSError as error:
        raise LoadTestError(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise LoadTestError(f"{path}: is not a certificate of `enginebay bench`: {error}") from error
