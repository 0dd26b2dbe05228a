"""The flags of `enginebay bench`, in the groups that its help shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from enginebay.verdict.gate import GATES

WHAT = Group.create_ordered("What is measured")
LOAD = Group.create_ordered("Under which load (instead of what the config says)")
SERVERS = Group.create_ordered("Running servers, without a config (--url)")
RESULT = Group.create_ordered("What comes of it")
OTHER = Group.create_ordered("Instead of measuring one load after the other")


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFlags:
    users: Annotated[
        list[int] | None,
        Parameter(
            group=LOAD,
            negative="",
            help="Closed loop: so many users, each waits for its answer before it asks "
            "again. Repeat it for several loads.",
        ),
    ] = None
    rate: Annotated[
        list[float] | None,
        Parameter(
            group=LOAD,
            negative="",
            help="Open loop: requests a second, sent whatever the answers. Shows the queue that a closed loop hides.",
        ),
    ] = None
    arrivals: Annotated[
        Literal["poisson", "constant", "gamma"] | None,
        Parameter(
            group=LOAD,
            help="Of an open loop; else the config's, else poisson. Ramps, steps, sweeps and traces have keys of their "
            "own, which stand in a config.",
        ),
    ] = None
    burstiness: Annotated[
        float | None,
        Parameter(group=LOAD, help="Of gamma arrivals: 1 is poisson, less comes in bursts, more evenly."),
    ] = None
    requests: Annotated[int | None, Parameter(group=LOAD, help="Requests of each run.")] = None
    starts: Annotated[
        int | None,
        Parameter(
            group=LOAD,
            help="Fresh starts of each backend. A verdict needs three or more: what differs from "
            "start to start is the chance that it must rise above.",
        ),
    ] = None
    seed: Annotated[int | None, Parameter(group=LOAD, help="Of prompts, lengths and arrivals.")] = None

    @property
    def given(self) -> dict[str, object]:
        """What the command line says, by the keys of `bench:`."""
        values = {"users": self.users, "rate_rps": self.rate, "arrivals": self._arrivals, "seed": self.seed,
                  "num_requests": self.requests, "starts": self.starts}  # fmt: skip
        return {key: value for key, value in values.items() if value is not None}

    @property
    def _arrivals(self) -> object:
        if self.burstiness is None:
            return self.arrivals
        return {"kind": self.arrivals or "gamma", "burstiness": self.burstiness}


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFlags:
    url: Annotated[
        list[str] | None,
        Parameter(
            group=SERVERS,
            negative="",
            help="Address of a running server; given twice, the two are compared. Which engine it is, is found out.",
        ),
    ] = None
    api_key_env: Annotated[
        str | None,
        Parameter(
            group=SERVERS,
            help="Name of the environment variable that holds the key; sent as a bearer token, never printed or saved.",
        ),
    ] = None
    model: Annotated[str | None, Parameter(group=SERVERS, help="Where a server lists several: which one.")] = None
    tokenizer: Annotated[
        str | None,
        Parameter(
            group=SERVERS,
            help="Where the model's files are, to count prompts exactly: a directory, hf:owner/"
            "name, or a name of `enginebay models list`.",
        ),
    ] = None
    minutes: Annotated[
        float | None,
        Parameter(
            group=SERVERS,
            help="How long the proposed load may take in all; else 2 for one server and 5 for two. What it is likely "
            "to take is told before it begins.",
        ),
    ] = None


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFlags:
    out: Annotated[Path | None, Parameter(group=RESULT, help="Folder of the results; else out/NAME-OF-THE-CONFIG.")] = (
        None
    )
    resume: Annotated[
        bool,
        Parameter(
            group=RESULT,
            negative="",
            show_default=False,
            help="Go on with the results in the folder: starts that are whole are "
            "kept, the others measured. Refused where plan or settings are others.",
        ),
    ] = False
    overwrite: Annotated[
        bool,
        Parameter(
            group=RESULT,
            negative="",
            show_default=False,
            help="Replace the results in the folder, which are lost. Without it, nothing is measured into a folder "
            "that holds some.",
        ),
    ] = False
    picture: Annotated[
        list[Path] | None,
        Parameter(group=RESULT, negative="", help="Draw the result for a README: FILE.svg or FILE.png."),
    ] = None
    fail_on: Annotated[
        str | None,
        Parameter(
            group=RESULT,
            help=f"Make it a gate: {', '.join(GATES)}, in any combination with commas. Exit code 1 when it fails.",
        ),
    ] = None
    junit: Annotated[Path | None, Parameter(group=RESULT, help="Write the verdict as JUnit XML, for CI.")] = None
    markdown: Annotated[
        Path | None, Parameter(group=RESULT, help="Write the verdict as Markdown, for a pull request.")
    ] = None


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class OtherFlags:
    capacity: Annotated[
        bool,
        Parameter(
            group=OTHER,
            negative="",
            show_default=False,
            help="Search the highest rate at which the service levels of `bench.slo` hold, for each backend.",
        ),
    ] = False
    sweep: Annotated[
        Path | None,
        Parameter(group=OTHER, help="A YAML file of config values to vary; each variant is measured like a backend."),
    ] = None
    replay: Annotated[
        Path | None,
        Parameter(group=OTHER, help="A result of bench: measure it again with its plan, weights and images."),
    ] = None
    self_check: Annotated[
        bool,
        Parameter(
            group=OTHER,
            negative="",
            show_default=False,
            help="Measure this client itself against a server that knows what it sent: "
            "its ceiling and its timing error.",
        ),
    ] = False


NO_LOAD, NO_SERVERS, NO_RESULT, NO_OTHER = LoadFlags(), ServerFlags(), ResultFlags(), OtherFlags()
