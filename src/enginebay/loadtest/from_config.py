"""From the `bench:` section of a config to the workload, the loads and the plan that it describes."""

from __future__ import annotations

from collections.abc import Sequence

from enginebay.config.bench import BenchConfig
from enginebay.config.bench_arrivals import (
    GammaArrivals,
    RampArrivals,
    SteadyArrivals,
    StepsArrivals,
    SweepArrivals,
    TraceArrivals,
)
from enginebay.config.bench_lengths import BellLengths, RecordedLengths, TokenRange
from enginebay.config.bench_workloads import (
    ConversationConfig,
    SharedPrefixConfig,
    ShareGPTConfig,
    SyntheticConfig,
    TableConfig,
    TraceConfig,
)
from enginebay.config.bench_workloads import ThinkTime as ThinkTimeConfig
from enginebay.configured import CheckedBackend
from enginebay.loadtest.arrivals import sweep_rates
from enginebay.loadtest.config_traces import ConfigTraces, path_of_arrivals
from enginebay.loadtest.plan import Load, Plan, Step
from enginebay.loadtest.tokenizer import PromptTokenizer
from enginebay.loadtest.workloads import (
    ConversationWorkload,
    DatasetWorkload,
    EmpiricalLengths,
    FixedLength,
    Lengths,
    LogNormalLengths,
    NormalLengths,
    PromptForm,
    Quantity,
    SharedPrefixWorkload,
    SyntheticWorkload,
    TableFields,
    ThinkTime,
    TraceWorkload,
    UniformLengths,
    Workload,
    make_plan,
    read_sharegpt,
    read_table,
)
from enginebay.types import Feature, SamplingParams


def plan_from_config(
    settings: BenchConfig,
    *,
    model: str,
    tokenizer: PromptTokenizer,
    ignore_eos: bool | None = None,
    runs_already: bool = False,
) -> Plan:
    """ignore_eos: what `auto` means for the backends at hand (`all_ignore_eos`); else what the section says.

    runs_already: one of them is a server that runs on between two starts, and remembers prompts.

    Reads the files that the section names. Raises LoadTestError.
    """
    traces = ConfigTraces(settings)
    fixed = settings.ignore_eos if settings.ignore_eos != "auto" else bool(ignore_eos)
    return make_plan(
        workload_from_config(settings, traces),
        loads_from_config(settings),
        quantity=_quantity(settings, traces),
        model=model,
        sampling=SamplingParams(max_tokens=1, ignore_eos=fixed, **settings.sampling.model_dump()),
        seed=settings.seed,
        tokenizer=tokenizer,
        form=_form(settings),
        num_prompt_sets=settings.starts if runs_already and settings.starts > 1 else None,
        prompt_counts=settings.prompt_counts,
    )


def all_ignore_eos(backends: Sequence[CheckedBackend]) -> bool:
    """Whether each of them declares that it can generate beyond the end of a sequence."""
    return all(_ignores_eos(checked) for checked in backends)


def _ignores_eos(checked: CheckedBackend) -> bool:
    """Not told of a server whose dialect is found out only when it is asked: then it could be one that does not."""
    is_known = getattr(checked.options, "dialect", None) != "auto"
    return is_known and Feature.IGNORE_EOS in checked.spec.capabilities(None, checked.options)


# ---------------------------------------------------------------- loads


def loads_from_config(settings: BenchConfig) -> tuple[Load, ...]:
    """One for each number of users, rate or speed."""
    arrivals, rates = settings.open_arrivals, settings.rate_rps or ()
    match arrivals:
        case SteadyArrivals():
            return tuple(Load(rate=rate, arrivals=arrivals.kind) for rate in rates)
        case GammaArrivals():
            return tuple(Load(rate=rate, arrivals="gamma", burstiness=arrivals.burstiness) for rate in rates)
        case SweepArrivals():
            swept = sweep_rates(
                arrivals.from_rps, arrivals.to_rps, num_rates=arrivals.num_rates, spacing=arrivals.spacing
            )
            return tuple(Load(rate=rate, arrivals=arrivals.process) for rate in swept)
        case RampArrivals():
            return (_ramp(arrivals),)
        case StepsArrivals():
            return (_steps(arrivals),)
        case TraceArrivals():
            name = path_of_arrivals(settings, arrivals).name
            return tuple(Load(arrivals="trace", trace=name, speed=speed) for speed in arrivals.speeds)
        case _:
            return tuple(Load(users=users) for users in settings.users or (1,))


def _ramp(arrivals: RampArrivals) -> Load:
    return Load(
        arrivals="ramp",
        rate=arrivals.from_rps,
        end_rate=arrivals.to_rps,
        duration_s=arrivals.duration_s,
        burstiness=_unless_poisson(arrivals.burstiness),
    )


def _steps(arrivals: StepsArrivals) -> Load:
    steps = tuple(Step(rate=step.rate_rps, duration_s=step.duration_s) for step in arrivals.steps)
    return Load(arrivals="steps", steps=steps, burstiness=_unless_poisson(arrivals.burstiness))


def _unless_poisson(burstiness: float) -> float | None:
    return None if burstiness == 1 else burstiness


# ---------------------------------------------------------------- workload


def workload_from_config(settings: BenchConfig, traces: ConfigTraces) -> Workload:
    config = settings.workload
    inputs, outputs = _lengths(settings.input_tokens), _lengths(settings.output_tokens)
    match config:
        case SyntheticConfig():
            return SyntheticWorkload(input_tokens=inputs, output_tokens=outputs)
        case SharedPrefixConfig():
            return SharedPrefixWorkload(
                prefix_tokens=config.prefix_tokens,
                num_prefixes=config.num_prefixes,
                input_tokens=inputs,
                output_tokens=outputs,
            )
        case ConversationConfig():
            return ConversationWorkload(
                num_turns=_lengths(config.turns),
                input_tokens=inputs,
                output_tokens=outputs,
                system_tokens=config.system_tokens,
                think_time=_think_time(config.think_time),
            )
        case TraceConfig():
            return TraceWorkload(traces.of_workload)
        case _:
            return _dataset(config, outputs if "output_tokens" in settings.model_fields_set else None)


def _dataset(config: ShareGPTConfig | TableConfig, output_tokens: Lengths | None) -> DatasetWorkload:
    if isinstance(config, TableConfig):
        fields = config.fields.model_dump()
        entries = read_table(config.path, TableFields(**fields))
    else:
        entries = read_sharegpt(config.path)
    return DatasetWorkload(
        path=config.path,
        entries=entries,
        output_tokens=output_tokens,
        all_turns=config.all_turns,
        think_time=_think_time(config.think_time),
        max_input_tokens=config.max_input_tokens,
        max_output_tokens=config.max_output_tokens,
        reuse=config.reuse,
    )


def _form(settings: BenchConfig) -> PromptForm:
    if settings.prompt_form is not None:
        return settings.prompt_form
    config = settings.workload
    is_table_of_chats = isinstance(config, TableConfig) and config.fields.messages is not None
    has_turns = isinstance(config, ConversationConfig | ShareGPTConfig | TableConfig) and getattr(
        config, "all_turns", True
    )
    return "chat" if has_turns or is_table_of_chats else "text"


def _think_time(config: ThinkTimeConfig) -> ThinkTime:
    return ThinkTime(mean_s=config.mean_s, std_s=config.std_s)


def _lengths(config: int | TokenRange | BellLengths | RecordedLengths) -> Lengths:
    match config:
        case int():
            return FixedLength(config)
        case TokenRange():
            return UniformLengths(config.min, config.max)
        case BellLengths():
            kind = NormalLengths if config.kind == "normal" else LogNormalLengths
            return kind(mean=config.mean, std=config.std, min=config.min, max=config.max)
        case RecordedLengths():
            return EmpiricalLengths(config.values)


# ---------------------------------------------------------------- how much


def _quantity(settings: BenchConfig, traces: ConfigTraces) -> Quantity:
    """Ramps, steps and traces end by themselves; so does a trace that is asked in any other way."""
    num_requests: int | None = settings.num_requests
    arrivals = settings.open_arrivals
    if "num_requests" not in settings.model_fields_set:
        if isinstance(arrivals, RampArrivals | StepsArrivals | TraceArrivals):
            num_requests = None
        elif isinstance(settings.workload, TraceConfig):
            num_requests = len(traces.of_workload.requests)
    return Quantity(
        num_requests=num_requests,
        num_warmup_requests=settings.warmup_requests,
        trace_offsets=traces.of_arrivals.offsets if isinstance(arrivals, TraceArrivals) else (),
    )
