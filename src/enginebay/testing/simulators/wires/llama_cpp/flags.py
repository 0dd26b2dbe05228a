"""The flags of llama-server that the contract names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from enginebay.testing.simulators.flags import Flag, FlagTable, Problem, Values
from enginebay.testing.simulators.performance import SimulatorProfile
from enginebay.testing.simulators.vocabulary import vocabulary_of
from enginebay.testing.simulators.wire import DEFAULT_MODEL, Launch

AUTO_SLOTS = 4
_CONTEXT_STEP = 256
_REMOVED = ("--draft", "--draft-max", "--draft-min")
_CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")


def word(problem: Problem, flag: str, value: str, choices: Sequence[str]) -> str:
    """common/arg.cpp writes one line."""
    if flag in _REMOVED:
        return f'error while handling argument "{flag}": the argument has been removed'
    what = {
        "unknown": f"invalid argument: {flag}",
        "value": f'error while handling argument "{flag}": stoi',
        "choice": f'error while handling argument "{flag}": Unsupported value: {value}',
        "missing": f'error while handling argument "{flag}": expected value for argument',
    }[problem]
    return f"error: {what}" if problem == "unknown" else what


def _switch(name: str, *, negative: str | None = None, default: bool = False, aliases: tuple[str, ...] = ()) -> Flag:
    negatives = () if negative is None else (negative,)
    return Flag(name, default=default, is_switch=True, negatives=negatives, aliases=aliases)


FLAGS = FlagTable(
    wording=word,
    flags=(
        Flag("--model", aliases=("-m",), env="LLAMA_ARG_MODEL"),
        Flag("--hf-repo", aliases=("-hf", "-hfr")),
        Flag("--hf-file", aliases=("-hff",)),
        Flag("--alias", aliases=("-a",)),
        Flag("--split-mode", default="layer", choices=("none", "layer", "row", "tensor"), aliases=("-sm",)),
        Flag("--tensor-split", aliases=("-ts",)),
        Flag("--n-gpu-layers", aliases=("-ngl",)),
        Flag("--parallel", int, -1, aliases=("-np",), env="LLAMA_ARG_N_PARALLEL"),
        Flag("--ctx-size", int, 0, aliases=("-c",), env="LLAMA_ARG_CTX_SIZE"),
        _switch("--kv-unified", aliases=("-kvu",)),
        Flag("--batch-size", int, 2048, aliases=("-b",), env="LLAMA_ARG_BATCH"),
        Flag("--ubatch-size", int, 512, aliases=("-ub",)),
        Flag("--cache-type-k", default="f16", choices=_CACHE_TYPES, aliases=("-ctk",)),
        Flag("--cache-type-v", default="f16", choices=_CACHE_TYPES, aliases=("-ctv",)),
        _switch("--cache-prompt", negative="--no-cache-prompt", default=True),
        Flag("--cache-ram", int, 8192, aliases=("-cram",)),
        Flag("--cache-reuse", int, 0),
        Flag("--spec-type", default="none"),
        Flag("--spec-draft-model", aliases=("-md", "--model-draft")),
        Flag("--spec-draft-n-max", int, 3),
        Flag("--spec-draft-n-min", int, 0),
        Flag("--spec-draft-p-min", float, 0.0),
        Flag("--spec-ngram-mod-n-min", int, 48),
        Flag("--spec-ngram-mod-n-max", int, 64),
        Flag("--spec-ngram-mod-n-match", int, 24),
        Flag("--seed", int, -1, aliases=("-s",)),
        Flag("--host", default="127.0.0.1", env="LLAMA_ARG_HOST"),
        Flag("--port", int, 0, env="LLAMA_ARG_PORT"),
        Flag("--api-key", env="LLAMA_API_KEY"),
        Flag("--verbosity", int, 3, aliases=("-lv", "--log-verbosity")),
        _switch("--metrics"),
        _switch("--slots", negative="--no-slots", default=True),
        _switch("--props"),
        _switch("--cont-batching", negative="--no-cont-batching", default=True, aliases=("-cb",)),
        Flag("--flash-attn", default="auto", choices=("on", "off", "auto"), aliases=("-fa",)),
        Flag("--threads", int, -1, aliases=("-t",)),
        Flag("--threads-http", int, -1),
        Flag("--timeout", int, 3600, aliases=("-to",)),
        Flag("--n-predict", int, -1, aliases=("-n", "--predict")),
        Flag("--sse-ping-interval", int, 30),
        _switch("--no-warmup"),
    ),
)


def num_slots(values: Values) -> int:
    wanted = cast(int, values["parallel"])
    return AUTO_SLOTS if wanted < 0 else wanted


def configure(values: Values, profile: SimulatorProfile) -> Launch:
    """--ctx-size is the sum of all slots, unless they share it: as they do where their number is left to the server."""
    slots, context = num_slots(values), cast(int, values["ctx_size"])
    is_unified = bool(values["kv_unified"]) or cast(int, values["parallel"]) < 0
    whole = context or profile.max_model_len * (1 if is_unified else slots)
    length = whole if is_unified else whole // slots
    length = -(-length // _CONTEXT_STEP) * _CONTEXT_STEP
    profile = replace(
        profile,
        max_num_seqs=slots,
        max_model_len=length,
        num_blocks=max(profile.num_blocks, -(-length // profile.block_size) * slots),
        max_num_batched_tokens=cast(int, values["batch_size"]),
        prefix_caching=bool(values["cache_prompt"]),
    )
    model = values["alias"] or values["model"] or values["hf_repo"] or DEFAULT_MODEL
    return Launch(
        model=str(model).split(",")[0],
        profile=profile,
        values=values,
        port=cast(int, values["port"]),
        vocabulary=vocabulary_of(values["model"]),
    )
