"""A compiled plan with its command: `trtllm-serve`, Triton, a container of either, or none for a process of ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from enginebay.backend import FILES, BackendContext, LaunchPlan, Settings
from enginebay.backends.launch import container_model_argument, docker_run, model_argument, run_command
from enginebay.backends.launch.second_model import SECOND_MODELS, second_model_argument
from enginebay_tensorrt_llm.built_engine import compared
from enginebay_tensorrt_llm.engine_build import BUILD_PROGRAM, BUILD_SCRIPT, build_program, build_script
from enginebay_tensorrt_llm.engine_settings import compile_engine, engine_build
from enginebay_tensorrt_llm.options import TensorrtLlmOptions
from enginebay_tensorrt_llm.options_file import OPTIONS_FILE, options_yaml
from enginebay_tensorrt_llm.releases import SERVE_IMAGE, image_of, line_of, version_of
from enginebay_tensorrt_llm.settings import Compiled, compile_pytorch
from enginebay_tensorrt_llm.triton_repository import REPOSITORY, SERVE_SCRIPT, repository_files

DEFAULT_PORT = 8000
TRITON_METRICS_PORT = 8002
_LAST_PORT = 65535
LEGACY = "legacy: a TensorRT engine is built once for one GPU and these lengths; the PyTorch path needs no build step"
_IN_CONTAINER = "/enginebay"
_ENGINE_IN_CONTAINER = "/engine"
_DOCKER_FLAGS = ("--ipc", "host", "--ulimit", "memlock=-1", "--ulimit", "stack=67108864")
_DEFAULTS = TensorrtLlmOptions.model_validate({})
_DECIDING = ("num_draft_tokens", "prometheus_metrics", "iteration_stats", "guided_decoding_backend", "tool_parser")
"""Options that change what settings become on the PyTorch path."""
_WORDS = {"debug": "VERBOSE"}


def compile_settings(settings: Settings, version: str | None) -> LaunchPlan:
    """For the PyTorch path with the options at their defaults; `launch` knows the options."""
    return _pytorch_plan(settings, version, _DEFAULTS)


def launch(context: BackendContext, plan: LaunchPlan) -> LaunchPlan:
    """The plan with its command. Where an option decides what settings become, they are compiled with it."""
    options: TensorrtLlmOptions = context.options
    if context.mode == "in_process":
        return _in_process_plan(context)
    if options.path == "engine":
        return _engine_plan(context)
    if any(getattr(options, name) != getattr(_DEFAULTS, name) for name in _DECIDING):
        plan = _pytorch_plan(context.settings, version_of(context), options)
    notes = (*plan.notes, *_docker_notes(context))
    return replace(plan, command=_serve_command(context, plan.arguments), notes=notes)


# ---------------------------------------------------------------- the PyTorch path


def _compiled(settings: Settings, version: str | None, options: TensorrtLlmOptions) -> Compiled:
    return compile_pytorch(settings, line=line_of(version), num_draft_tokens=options.num_draft_tokens)


def _pytorch_plan(settings: Settings, version: str | None, options: TensorrtLlmOptions) -> LaunchPlan:
    compiled = _compiled(settings, version, options)
    file = {**compiled.file, **_observability(options)}
    flags = [*compiled.flags]
    if options.tool_parser is not None:
        flags += ["--tool_parser", options.tool_parser]
    if options.guided_decoding_backend is not None:
        file["guided_decoding_backend"] = options.guided_decoding_backend
    if file:
        # The old spelling: every line takes it, `--config` only the newer ones.
        flags += ["--extra_llm_api_options", f"{FILES}/{OPTIONS_FILE}"]
    return LaunchPlan(
        outcomes=compiled.outcomes,
        arguments=tuple(flags),
        keywords=compiled.keywords,
        files={OPTIONS_FILE: options_yaml(file)} if file else {},
    )


def _observability(options: TensorrtLlmOptions) -> dict[str, object]:
    wanted = {"return_perf_metrics": options.prometheus_metrics, "enable_iter_perf_stats": options.iteration_stats}
    return {key: True for key, is_wanted in wanted.items() if is_wanted}


def _in_process_plan(context: BackendContext) -> LaunchPlan:
    options: TensorrtLlmOptions = context.options
    compiled = _compiled(context.settings, version_of(context), options)
    # The weights are fetched by us, at that revision; what the engine gets is a directory.
    keywords = {name: value for name, value in compiled.keywords.items() if name != "revision"}
    if options.iteration_stats:
        keywords["enable_iter_perf_stats"] = True
    seed = context.settings.get("seed", context.seed)
    level = context.settings.get("log_level")
    return LaunchPlan(
        outcomes=compiled.in_process_outcomes,
        keywords={**keywords, "enginebay_seed": seed},
        environment={} if level is None else {"TLLM_LOG_LEVEL": _WORDS.get(str(level), str(level).upper())},
    )


def _serve_command(context: BackendContext, flags: tuple[str, ...], *, engine: str | None = None) -> tuple[str, ...]:
    """engine: a built one, as the server sees it, in the model's place."""
    options: TensorrtLlmOptions = context.options
    if context.mode != "docker":
        model = engine or model_argument(context.model)
        place = ("--host", "127.0.0.1", "--port", str(options.port or DEFAULT_PORT))
        return run_command(("trtllm-serve",), (model, *place, *flags), options=options)
    model = engine or container_model_argument(context.model)
    # It binds localhost by default, which nobody outside of the container can reach.
    place = ("--host", "0.0.0.0", "--port", str(DEFAULT_PORT))
    arguments = ("trtllm-serve", model, *place, *(flag.replace(FILES, _IN_CONTAINER) for flag in flags))
    return _in_docker(context, arguments, mounts=_files_mount(flags) + _engine_mount(options))


def _in_docker(context: BackendContext, arguments: tuple[str, ...], *, mounts: tuple[str, ...]) -> tuple[str, ...]:
    options: TensorrtLlmOptions = context.options
    return docker_run(
        arguments,
        options=options,
        image=image_of(context),
        port=options.port or DEFAULT_PORT,
        container_port=DEFAULT_PORT,
        model=context.model,
        environment=tuple(context.environment),
        flags=(*_DOCKER_FLAGS, *mounts),
    )


def _files_mount(flags: tuple[str, ...]) -> tuple[str, ...]:
    return ("-v", f"{FILES}:{_IN_CONTAINER}:ro") if any(FILES in flag for flag in flags) else ()


def _engine_mount(options: TensorrtLlmOptions) -> tuple[str, ...]:
    if options.engine_directory is None:
        return ()
    return ("-v", f"{Path(options.engine_directory).expanduser().absolute()}:{_ENGINE_IN_CONTAINER}:ro")


def _docker_notes(context: BackendContext) -> tuple[str, ...]:
    if context.mode != "docker":
        return ()
    notes = [
        f"engine.{setting}: {context.settings[setting]} is a path inside the container, and nothing is mounted there: "
        "give a name of the hub, or an image that has it"
        for setting in SECOND_MODELS
        if second_model_argument(str(context.settings.get(setting, ""))).startswith(("/", "~", "."))
    ]
    if context.image is None and context.options.api == "openai":
        notes.append(f"the repository {SERVE_IMAGE} is documented; that it has this tag was not verified")
    return tuple(notes)


# ---------------------------------------------------------------- the legacy path


def _engine_plan(context: BackendContext) -> LaunchPlan:
    options: TensorrtLlmOptions = context.options
    plan = compile_engine(context.settings, api=options.api)
    if any(outcome.outcome == "unsupported" for outcome in plan.outcomes):
        return LaunchPlan(outcomes=plan.outcomes, notes=(LEGACY,))
    build = engine_build(context.settings, options)
    plan = plan._replace(outcomes=compared(plan.outcomes, build, directory=options.engine_directory))
    engine = options.engine_directory or "engine"
    files = {
        BUILD_SCRIPT: build_script(build, checkpoint=f"{engine}.checkpoint", engine=engine),
        BUILD_PROGRAM: build_program(build, model=model_argument(context.model), engine=engine),
    }
    notes = (LEGACY, f"build the engine first: {BUILD_PROGRAM}, or {BUILD_SCRIPT} from a converted checkpoint")
    if options.api == "triton":
        return _triton_plan(context, LaunchPlan(outcomes=plan.outcomes, files=files, notes=notes))
    file = _engine_options_file(context)
    flags = ("--backend", "tensorrt", "--tokenizer", _tokenizer(context), *_without_tokenizer(plan.serve_flags))
    if file:
        flags += ("--extra_llm_api_options", f"{FILES}/{OPTIONS_FILE}")
        files[OPTIONS_FILE] = options_yaml(file)
    return LaunchPlan(
        outcomes=plan.outcomes,
        arguments=flags,
        files=files,
        command=_serve_command(context, flags, engine=_engine_folder(context)),
        notes=(*notes, *_docker_notes(context)),
    )


def _engine_options_file(context: BackendContext) -> dict[str, object]:
    options: TensorrtLlmOptions = context.options
    file = _observability(options)
    if "enable_prefix_caching" in context.settings:
        cache: dict[str, object] = {"enable_block_reuse": context.settings["enable_prefix_caching"]}
        if "gpu_memory_fraction" in context.settings:
            cache["free_gpu_memory_fraction"] = context.settings["gpu_memory_fraction"]
        file["kv_cache_config"] = cache
    if options.guided_decoding_backend is not None:
        file["guided_decoding_backend"] = options.guided_decoding_backend
    return file


def _without_tokenizer(flags: tuple[str, ...]) -> tuple[str, ...]:
    if "--tokenizer" not in flags:
        return flags
    position = flags.index("--tokenizer")
    return (*flags[:position], *flags[position + 2 :])


def _triton_plan(context: BackendContext, plan: LaunchPlan) -> LaunchPlan:
    options: TensorrtLlmOptions = context.options
    build = engine_build(context.settings, options)
    repository = repository_files(
        build, context.settings, engine=_engine_folder(context), tokenizer=_tokenizer(context)
    )
    plan = replace(plan, files={**plan.files, **repository}, notes=(*plan.notes, *_docker_notes(context)))
    if context.mode == "docker":
        flags = _triton_flags(DEFAULT_PORT, TRITON_METRICS_PORT)
        arguments = ("sh", f"{_IN_CONTAINER}/{SERVE_SCRIPT}", *flags)
        metrics = ("-p", f"127.0.0.1:{triton_metrics_port(options)}:{TRITON_METRICS_PORT}")
        mounts = ("-v", f"{FILES}:{_IN_CONTAINER}:ro", *_engine_mount(options), *metrics)
        return replace(plan, arguments=flags, command=_in_docker(context, arguments, mounts=mounts))
    # It binds every address by default; the metrics go where HTTP goes.
    ports = _triton_flags(options.port or DEFAULT_PORT, triton_metrics_port(options))
    flags = ("--http-address", "127.0.0.1", *ports)
    # Our script copies the image's programs in; who replaces it says where its repository is.
    where = ("--model-repository", f"{FILES}/{REPOSITORY}") if options.executable else ()
    command = run_command(("sh", f"{FILES}/{SERVE_SCRIPT}"), (*where, *flags), options=options)
    return replace(plan, arguments=flags, command=command)


def _triton_flags(port: int, metrics_port: int) -> tuple[str, ...]:
    return ("--http-port", str(port), "--metrics-port", str(metrics_port), "--allow-grpc", "false")


def triton_metrics_port(options: TensorrtLlmOptions) -> int:
    """Beside the server's own, so that two servers on one machine do not meet."""
    if options.port is None:
        return TRITON_METRICS_PORT
    above = options.port + 2
    return above if above <= _LAST_PORT else options.port - 2


def _engine_folder(context: BackendContext) -> str:
    if context.mode == "docker":
        return _ENGINE_IN_CONTAINER
    return context.options.engine_directory or "engine"


def _tokenizer(context: BackendContext) -> str:
    """An engine has none: it is the checkpoint's, unless another one is asked for."""
    if "tokenizer" in context.settings:
        return second_model_argument(str(context.settings["tokenizer"]))
    return (container_model_argument if context.mode == "docker" else model_argument)(context.model)
