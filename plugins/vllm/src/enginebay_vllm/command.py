"""The whole command line: `vllm serve`, or `docker run` with vLLM's own image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from enginebay.backend import BackendContext, LaunchPlan, SettingOutcome
from enginebay.backends.launch import container_model_argument, docker_run, model_argument, run_command
from enginebay.backends.launch.image import is_pinned
from enginebay.backends.launch.second_model import are_here, second_model_mounts, settings_in_container
from enginebay.errors import ConfigError
from enginebay_vllm.options import ENGINE_MAX_LOGPROBS, VllmOptions
from enginebay_vllm.settings import compile_settings

DEFAULT_PORT = 8000
DEFAULT_IMAGE = "vllm/vllm-openai:v0.32.0"
API_KEY_VARIABLE = "VLLM_API_KEY"
NO_SAMPLING_DEFAULTS = ("--generation-config", "vllm")
"""Every request carries every sampling field, so the model's own defaults could only surprise: of them, the limit of
output tokens would go on to apply. End-of-sequence tokens are read from the model all the same."""
TELL_CACHED_TOKENS = ("--enable-prompt-tokens-details",)


def launch(context: BackendContext, plan: LaunchPlan) -> LaunchPlan:
    if context.mode == "in_process":
        return _as_keywords(context, plan)
    if context.mode == "docker":
        return _in_docker(context, plan)
    return _as_process(context, plan)


def _as_keywords(context: BackendContext, plan: LaunchPlan) -> LaunchPlan:
    return replace(
        plan,
        outcomes=tuple(_told_as_keyword(outcome) for outcome in plan.outcomes),
        keywords={**own_keywords(context), **plan.keywords},
        environment=own_environment(context),
    )


def _told_as_keyword(outcome: SettingOutcome) -> SettingOutcome:
    keywords = compile_settings({outcome.setting: outcome.value}, None).keywords
    told = ", ".join(f"{name}={value!r}" for name, value in keywords.items())
    return outcome if outcome.outcome == "unsupported" else replace(outcome, becomes=told)


def _as_process(context: BackendContext, plan: LaunchPlan) -> LaunchPlan:
    options: VllmOptions = context.options
    port = options.port or DEFAULT_PORT
    arguments = (
        *(model_argument(context.model), "--host", "127.0.0.1", "--port", str(port)),
        *_arguments(context, plan),
    )
    command = run_command(("vllm", "serve"), arguments, options=options)
    return replace(plan, command=command, environment=own_environment(context))


def _in_docker(context: BackendContext, plan: LaunchPlan) -> LaunchPlan:
    options: VllmOptions = context.options
    plan = _in_container(context, plan)
    environment = own_environment(context)
    names = [*environment, *context.environment, *([API_KEY_VARIABLE] if options.api_key is not None else [])]
    command = docker_run(
        (container_model_argument(context.model), *_arguments(context, plan)),
        options=options,
        image=context.image or DEFAULT_IMAGE,
        port=options.port or DEFAULT_PORT,
        container_port=DEFAULT_PORT,
        model=context.model,
        environment=names,
        flags=("--ipc", "host", *second_model_mounts(context.settings)),
    )
    notes = (*plan.notes, "the image was not run by us: its flags are those of the release")
    return replace(plan, command=command, environment=environment, notes=notes)


def _in_container(context: BackendContext, plan: LaunchPlan) -> LaunchPlan:
    """The plan with the directories of its settings where they are mounted."""
    compiled = compile_settings(settings_in_container(context.settings), None)
    asked = tuple(replace(outcome, value=context.settings[outcome.setting]) for outcome in compiled.outcomes)
    return replace(plan, outcomes=asked, arguments=compiled.arguments)


def _arguments(context: BackendContext, plan: LaunchPlan) -> tuple[str, ...]:
    """Of settings and options, and what we always want. The name is ours, so that every engine answers to it."""
    named = () if "served_model_name" in context.settings else ("--served-model-name", *_names(context))
    return (*named, *plan.arguments, *_option_arguments(context.options), *NO_SAMPLING_DEFAULTS, *TELL_CACHED_TOKENS)


def _names(context: BackendContext) -> tuple[str, ...]:
    """That of the config first: it labels the metrics. A model of the hub answers to its name there, too."""
    at_the_hub = model_argument(context.model)
    return (context.model,) if Path(at_the_hub).is_absolute() else tuple(dict.fromkeys((context.model, at_the_hub)))


def _option_arguments(options: VllmOptions) -> tuple[str, ...]:
    arguments: list[str] = []
    if options.enforce_eager:
        arguments += ["--enforce-eager"]
    if options.max_logprobs != ENGINE_MAX_LOGPROBS:
        arguments += ["--max-logprobs", str(options.max_logprobs)]
    if options.scheduling_policy != "fcfs":
        arguments += ["--scheduling-policy", options.scheduling_policy]
    if options.tool_call_parser is not None:
        arguments += ["--enable-auto-tool-choice", "--tool-call-parser", options.tool_call_parser]
    if options.trust_request_chat_template:
        arguments += ["--trust-request-chat-template"]
    for flag, value in (
        ("--max-num-queued-reqs", options.max_queued_requests),
        ("--max-num-queued-tokens", options.max_queued_tokens),
        ("--stream-interval", options.stream_interval),
    ):
        if value is not None:
            arguments += [flag, str(value)]
    return tuple(arguments)


def own_keywords(context: BackendContext) -> Mapping[str, object]:
    """The same as arguments of `AsyncEngineArgs`, for the engine in a process of ours."""
    options: VllmOptions = context.options
    optional = {
        "max_num_queued_reqs": options.max_queued_requests,
        "max_num_queued_tokens": options.max_queued_tokens,
        "stream_interval": options.stream_interval,
    }
    return {
        "served_model_name": list(_names(context)),
        "enforce_eager": options.enforce_eager,
        "max_logprobs": options.max_logprobs,
        "scheduling_policy": options.scheduling_policy,
        "generation_config": "vllm",
        **{name: value for name, value in optional.items() if value is not None},
    }


def own_environment(context: BackendContext) -> Mapping[str, str]:
    """What the entry's own `environment` may replace. The API key is no part of it: no plan shows that."""
    options: VllmOptions = context.options
    environment = {"VLLM_NO_USAGE_STATS": "1"}
    if options.dev_mode and context.mode != "in_process":
        environment["VLLM_SERVER_DEV_MODE"] = "1"
    if options.cpu_kv_cache_gib is not None:
        environment["VLLM_CPU_KVCACHE_SPACE"] = str(options.cpu_kv_cache_gib)
    if options.omp_threads_bind is not None:
        environment["VLLM_CPU_OMP_THREADS_BIND"] = options.omp_threads_bind
    if context.mode != "docker" and _needs_no_hub(context):
        environment["HF_HUB_OFFLINE"] = "1"
    return environment


def _needs_no_hub(context: BackendContext) -> bool:
    """Everything is on this machine already: vLLM would ask the hub about it all the same."""
    return Path(model_argument(context.model)).is_absolute() and are_here(context.settings)


def release_of(image: str | None) -> str | None:
    """The release that an image's tag names, `v0.32.0-cu129` among others; None where it names none."""
    tag = (image or "").rpartition("/")[2].partition("@")[0].partition(":")[2]
    release = tag.removeprefix("v").partition("-")[0]
    return release if release[:1].isdigit() and "." in release else None


def check_image(image: str) -> None:
    """Raise ConfigError for an image that may be another one tomorrow."""
    if not is_pinned(image):
        raise ConfigError(f"{image!r} is another image every week", path="image", expected=f"a tag, as {DEFAULT_IMAGE}")
