"""`bench --url`: ask running servers who they are and how fast, and write a short load for them as a config."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from enginebay.cli.bench.proposing import MAX_USERS, NUM_WARMUP_REQUESTS, Proposal, Shape, propose
from enginebay.cli.bench.server_speed import PROBE_PROMPT, first_answer, speed_of
from enginebay.clock import Clock
from enginebay.config.loader import parse_config
from enginebay.configured import configured_backend
from enginebay.errors import BackendError, ConfigError, ModelError, StartFailed, UnsupportedFeature
from enginebay.guard import GuardedBackend
from enginebay.loadtest.estimated_tokenizer import EstimatedTokenizer
from enginebay.loadtest.plan import PromptCounts
from enginebay.loadtest.schedule import Speed
from enginebay.loadtest.tokenizer import FileTokenizer
from enginebay.models.sources import resolve_model
from enginebay.plugins import find_backend
from enginebay.probes.recognising import RecognisedServer, recognise_server
from enginebay.recognition import ListedModel
from enginebay.types import Feature, SamplingParams, Text

PROBE_TOKENS = 24
SPARE_RATIO = 1.5
"""One prompt has more tokens for its estimate than another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    name: str
    """In the config that is written."""
    found: RecognisedServer
    model: ListedModel
    tokenizer: str | None
    """A directory with the model's tokenizer; None where there is none on this machine."""

    @property
    def engine(self) -> str:
        """Its kind; of a server of this project that of the backend behind it, which is what is measured."""
        return self.model.kind or self.found.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What short answers of a server showed."""

    speed: Speed
    can_ignore_eos: bool
    engine_version: str | None
    max_model_len: int | None
    num_prompt_tokens: int
    """By the server's usage."""
    num_counted: int | None
    """The same prompt at the server's /tokenize; None where it has none."""
    num_by_file: int | None
    """The same by the tokenizer on this machine; None where there is none."""

    @property
    def tokens_per_piece(self) -> float:
        """What the prompt has over what is estimated without a tokenizer."""
        return self.num_prompt_tokens / len(EstimatedTokenizer().encode(PROBE_PROMPT))


@dataclass(frozen=True, slots=True, kw_only=True)
class Counting:
    """How the prompts are counted before they are sent."""

    by: PromptCounts
    in_words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Configured:
    text: str
    """Of a config."""
    speeds: Mapping[str, Speed]
    """By the names that it has."""


def configure_servers(
    urls: Sequence[str],
    *,
    clock: Clock,
    console: Console,
    api_key_env: str | None,
    model: str | None,
    tokenizer: str | None,
    seed: int,
    minutes: float | None = None,
) -> Configured:
    """A config that measures these servers. Sends some short requests to each.

    minutes: that the load may take in all.

    Raises StartFailed or ConfigError where one of them cannot be measured.
    """
    servers = asyncio.run(_recognised(urls, clock=clock, api_key_env=api_key_env, model=model, tokenizer=tokenizer))
    probed = []
    for server in servers:
        console.print(_introduction(server), highlight=False, soft_wrap=True)
        probed.append(asyncio.run(_probe(server, clock=clock, api_key_env=api_key_env)))
        console.print(_first_impression(probed[-1]), highlight=False, soft_wrap=True)
    counting = counting_of(servers, probed, is_tokenizer_given=tokenizer is not None)
    console.print(escape(counting.in_words), highlight=False, soft_wrap=True)
    proposal = propose([item.speed for item in probed], minutes=minutes)
    console.print(proposal.in_words, highlight=False, soft_wrap=True, markup=False)
    entries = _entries_text(servers, api_key_env=api_key_env)
    return Configured(
        text=entries + _bench_text(proposal, probed, prompt_counts=counting.by, seed=seed),
        speeds={server.name: item.speed for server, item in zip(servers, probed, strict=True)},
    )


# ---------------------------------------------------------------- who they are


async def _recognised(
    urls: Sequence[str], *, clock: Clock, api_key_env: str | None, model: str | None, tokenizer: str | None
) -> list[Server]:
    headers = _headers(api_key_env)
    found = [await recognise_server(url, clock=clock, headers=headers) for url in urls]
    if len({server.url for server in found}) < len(found):
        raise ConfigError(f"--url {found[0].url} is given twice", expected="two servers")
    models = [_model(server, model) for server in found]
    names = _names([chosen.kind or server.kind for server, chosen in zip(found, models, strict=True)])
    return [
        Server(name=name, found=server, model=chosen, tokenizer=tokenizer or local_tokenizer(chosen))
        for name, server, chosen in zip(names, found, models, strict=True)
    ]


def _headers(api_key_env: str | None) -> Mapping[str, str]:
    if api_key_env is None:
        return {}
    key = os.environ.get(api_key_env)
    if not key:
        raise ConfigError(f"the environment variable {api_key_env} is not set", path="--api-key-env")
    return {"authorization": f"Bearer {key}"}


def _names(kinds: Sequence[str]) -> list[str]:
    """The kind, and a letter where both are of one kind."""
    if len(set(kinds)) == len(kinds):
        return list(kinds)
    return [f"{kind}-{'ab'[number]}" for number, kind in enumerate(kinds)]


def _model(server: RecognisedServer, asked: str | None) -> ListedModel:
    names = [model.id for model in server.models]
    for model in server.models:
        if asked in (model.id, model.root):
            return model
    if asked is not None:
        if not names:
            return ListedModel(id=asked, owned_by=None, root=None)
        raise ConfigError(f"{server.url} has no model {asked!r}", path="--model", expected=" or ".join(names))
    if len(names) == 1:
        return server.models[0]
    raise ConfigError(
        f"{server.url} serves {len(names) or 'no'} models that it lists", path="--model", expected=" or ".join(names)
    )


def local_tokenizer(model: ListedModel) -> str | None:
    """Where this machine has the model's files: what the server loaded, by path or by its name on the hub."""
    for source in dict.fromkeys(filter(None, (model.root, model.id))):
        for candidate in (source, f"hf:{source}"):
            try:
                directory = resolve_model(candidate, offline=True)
            except ModelError:
                continue
            if (directory / "tokenizer.json").is_file():
                return str(directory)
    return None


def _introduction(server: Server) -> str:
    simulated = "[yellow]SIMULATED[/] " if server.found.simulated else ""
    behind = " behind `enginebay serve`" if server.engine != server.found.kind else ""
    return (
        f"{simulated}[bold]{escape(server.found.url)}[/] is [bold]{escape(server.engine)}[/]{behind}: "
        f"{escape(server.found.because)}\n  model {escape(server.model.id)}"
    )


# ---------------------------------------------------------------- how fast they are


async def _probe(server: Server, *, clock: Clock, api_key_env: str | None) -> Probed:
    """Short answers: one to see that it works, the others to see how fast."""
    config = parse_config(_entries_text([server], api_key_env=api_key_env), file="--url")
    backend = configured_backend(config, server.name, clock=clock, start_timeout_s=10.0)
    async with backend:
        can_ignore_eos = Feature.IGNORE_EOS in backend.info.capabilities
        sampling = SamplingParams(max_tokens=PROBE_TOKENS, temperature=0.0, ignore_eos=can_ignore_eos)
        usage = await first_answer(backend, sampling)
        if usage is None or usage.num_output_tokens == 0:
            raise StartFailed(
                f"{server.found.url} answered without a token or without its usage",
                backend=server.name,
                likely_cause="a proxy that strips stream_options, or a model that has nothing to say",
            )
        return Probed(
            speed=await speed_of(backend, sampling, clock=clock),
            can_ignore_eos=can_ignore_eos,
            engine_version=backend.info.engine_version,
            max_model_len=backend.info.max_model_len,
            num_prompt_tokens=usage.num_prompt_tokens,
            num_counted=await _count(backend),
            num_by_file=_count_by_file(server),
        )


async def _count(backend: GuardedBackend) -> int | None:
    if Feature.COUNT_TOKENS not in backend.info.capabilities:
        return None
    try:
        return len(await backend.count_tokens(Text(PROBE_PROMPT)))
    except (UnsupportedFeature, BackendError):
        return None  # of this release, for want of something else, or behind a proxy that lets nothing but /v1 pass


def _count_by_file(server: Server) -> int | None:
    if server.tokenizer is None:
        return None
    return len(FileTokenizer(Path(server.tokenizer)).encode(PROBE_PROMPT))


def _first_impression(probed: Probed) -> str:
    version = f"version {probed.engine_version}, " if probed.engine_version else ""
    alone, in_sum = (probed.speed.tokens_per_s(num_users) for num_users in (1, MAX_USERS))
    told = f"{alone:.0f} tokens/s for one short answer, {in_sum:.0f} for {MAX_USERS} at once"
    return f"  {escape(version)}{told}"


# ---------------------------------------------------------------- what is measured


def counting_of(servers: Sequence[Server], probed: Sequence[Probed], *, is_tokenizer_given: bool) -> Counting:
    """What agrees with the usage of every server, the model's own files first. One that is given is believed."""
    numbers = list(dict.fromkeys(item.num_prompt_tokens for item in probed))
    if is_tokenizer_given or (len(numbers) == 1 and probed[0].num_by_file in numbers):
        return Counting(by="tokenizer", in_words=f"prompts are counted by the tokenizer in {servers[0].tokenizer}")
    if len(numbers) > 1:
        apart = " and ".join(map(str, numbers))
        why = f"the servers make {apart} tokens of one text, so that no count holds for both"
        return Counting(by="estimated", in_words=f"{why}: {_ESTIMATED}")
    for server, item in zip(servers, probed, strict=True):
        if item.num_counted in numbers:
            in_words = f"prompts are counted by {server.found.url}/tokenize; {_NO_SECOND_COUNT}"
            return Counting(by="server", in_words=in_words)
    why = "no tokenizer of the model on this machine, and no server that counts as its usage does"
    return Counting(by="estimated", in_words=f"{why}: {_ESTIMATED}")


_NO_SECOND_COUNT = "answers are not counted a second time (--tokenizer DIR does)"
_ESTIMATED = (
    "lengths of prompts are estimated, and the servers' own usage is what counts (--tokenizer DIR makes them exact)"
)


def _entries_text(servers: Sequence[Server], *, api_key_env: str | None) -> str:
    """Written for people: this is the file to go on with."""
    entries = "\n".join(f"  {server.name}: {_entry(server, api_key_env)}" for server in servers)
    return (
        "# Written by `enginebay bench --url`. Change it, and measure again with `enginebay bench THIS-FILE`.\n"
        f"version: 1\nmodel: {_quoted(servers[0].model.id)}\nbackend: {servers[0].name}\n"
        f"backends:\n{entries}\n"
    )


def _entry(server: Server, api_key_env: str | None) -> str:
    parts = [f"kind: {server.found.kind}", f"url: {_quoted(server.found.url)}", f"model: {_quoted(server.model.id)}"]
    if find_backend(server.found.kind).modes[0] != "external":
        parts.insert(1, "mode: external")
    if server.tokenizer is not None:
        parts.append(f"engine: {{tokenizer: {_quoted(server.tokenizer)}}}")
    if api_key_env is not None:
        parts.append(f'options: {{api_key: "${{{api_key_env}}}"}}')
    return "{" + ", ".join(parts) + "}"


def _bench_text(proposal: Proposal, probed: Sequence[Probed], *, prompt_counts: PromptCounts, seed: int) -> str:
    shape = proposal.shape
    longest_input, longest_output = _longest(shape, probed, is_estimated=prompt_counts == "estimated")
    lines = [
        "bench:",
        f"  users: [{', '.join(map(str, shape.users))}]",
        f"  num_requests: {proposal.num_requests}",
        f"  warmup_requests: {NUM_WARMUP_REQUESTS}",
        f"  input_tokens: {{min: {min(shape.input_tokens[0], longest_input)}, max: {longest_input}}}",
        f"  output_tokens: {{min: {min(shape.output_tokens[0], longest_output)}, max: {longest_output}}}",
        f"  seed: {seed}  # of its own: a server remembers the prompts of another measurement",
        f"  ignore_eos: {str(all(item.can_ignore_eos for item in probed)).lower()}",
        f"  starts: {proposal.num_starts}",
    ]
    if len(probed) > 1:
        lines.append(f"  logprob_prompts: {shape.num_logprob_prompts}")
    if prompt_counts != "tokenizer":
        lines.append(f"  prompt_counts: {prompt_counts}")
    return "\n".join(lines) + "\n"


def _longest(shape: Shape, probed: Sequence[Probed], *, is_estimated: bool) -> tuple[int, int]:
    """Of prompts and outputs that fit into the shortest context; an estimate is taken at what the probe showed."""
    room = min((item.max_model_len for item in probed if item.max_model_len is not None), default=1 << 20)
    longest_output = max(1, min(shape.output_tokens[1], room // 4))
    pieces = SPARE_RATIO * max(item.tokens_per_piece for item in probed) if is_estimated else 1.0
    for_input = int((room - longest_output) / pieces) - 1
    return max(1, min(shape.input_tokens[1], for_input)), longest_output


def _quoted(text: str) -> str:
    return json.dumps(text.replace("$", "$$"))


def default_folder(urls: Sequence[str]) -> Path:
    hosts = [url.partition("://")[2].strip("/").removesuffix("/v1").strip("/") for url in urls]
    return Path("out") / "-against-".join("".join(c if c.isalnum() else "-" for c in host) for host in hosts)
