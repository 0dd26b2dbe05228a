"""Entry point of the kind `tensorrt_llm`: trtllm-serve, Triton, or the `LLM` object in a process of ours."""

from __future__ import annotations

from pathlib import Path

from enginebay.backend import Backend, BackendContext, BackendSpec, LaunchPlan
from enginebay.backends.http_engine.address import check_address
from enginebay.backends.http_engine.backend import HttpEngineBackend
from enginebay.backends.http_engine.server import OwnedServer
from enginebay.backends.in_process.backend import InProcessBackend
from enginebay.backends.launch import at_port, launched_server
from enginebay.errors import ConfigError
from enginebay.hookspecs import hookimpl
from enginebay_tensorrt_llm.api import TrtllmApi
from enginebay_tensorrt_llm.capabilities import IN_PROCESS, capabilities
from enginebay_tensorrt_llm.command import compile_settings, launch
from enginebay_tensorrt_llm.options import TensorrtLlmOptions
from enginebay_tensorrt_llm.recognise import RECOGNITION
from enginebay_tensorrt_llm.releases import NEWEST_STABLE, demand_pinned, line_of, version_of
from enginebay_tensorrt_llm.triton_api import TritonApi
from enginebay_tensorrt_llm.triton_backend import TritonBackend

KIND = "tensorrt_llm"
INSTALL = f"pip install tensorrt-llm=={NEWEST_STABLE} (CUDA only)"
EVIDENCE = f"contract checked (TensorRT-LLM {NEWEST_STABLE}): against a simulator; has not run on a GPU"


@hookimpl
def enginebay_backend() -> BackendSpec:
    return BackendSpec(
        kind=KIND,
        options_model=TensorrtLlmOptions,
        capabilities=capabilities,
        compile=compile_settings,
        create=create,
        modes=("managed", "docker", "external", "in_process"),
        version=version_of,
        launch=launch,
        check=check,
        in_process_takes=("venv", "environment"),
        recognition=RECOGNITION,
        evidence=EVIDENCE,
    )


def check(context: BackendContext) -> None:
    options: TensorrtLlmOptions = context.options
    mode = context.mode or "managed"
    line = line_of(version_of(context))
    demand_pinned(context.image)
    if options.tool_parser is not None and line == "1.2":
        raise ConfigError("trtllm-serve has --tool_parser from release 1.3 on", path="options.tool_parser")
    if mode == "external":
        check_address(context)
        return
    if options.api_key is not None and mode != "in_process":
        problem = "the server that is launched has no authentication: a key would protect nothing"
        raise ConfigError(problem, path="options.api_key")
    if mode == "in_process" and (options.path == "engine" or options.api == "triton"):
        raise ConfigError("mode in_process runs the PyTorch path", path="options.path", expected="pytorch")
    if options.api == "triton" and options.path != "engine":
        raise ConfigError(
            "the model repository of Triton is rendered for a built engine", path="options.path", expected="engine"
        )
    if options.path == "engine" and options.engine_directory is None:
        raise ConfigError("the engine path needs the folder of the engine", path="options.engine_directory")


def create(context: BackendContext) -> Backend:
    mode = context.mode or "managed"
    if mode == "in_process":
        return _in_process(context)
    options: TensorrtLlmOptions = context.options
    server = None if mode == "external" else _server(context)
    seed = context.settings.get("seed", context.seed)
    assert isinstance(seed, int)
    can = capabilities(version_of(context), options)
    if options.api == "triton":
        return TritonBackend(
            context, api=TritonApi(options, name=context.name, seed=seed), capabilities=can, server=server
        )
    served = context.settings.get("served_model_name")
    api = TrtllmApi(
        options,
        name=context.name,
        version=version_of(context),
        seed=seed,
        served_model_name=None if served is None else str(served),
        is_ours=server is not None,
    )
    return HttpEngineBackend(context, kind=KIND, api=api, capabilities=can, server=server)


def _server(context: BackendContext) -> OwnedServer:
    engine = context.options.engine_directory
    if engine is not None and not Path(engine).expanduser().is_dir():
        problem = f"there is no engine in {engine}: build it first, `enginebay plan` shows how"
        raise ConfigError(problem, path="options.engine_directory")
    return launched_server(
        context, _plan(context), with_port=lambda port: _plan(at_port(context, port)), install=INSTALL
    )


def _plan(context: BackendContext) -> LaunchPlan:
    return launch(context, compile_settings(context.settings, version_of(context)))


def _in_process(context: BackendContext) -> Backend:
    options: TensorrtLlmOptions = context.options
    return InProcessBackend(
        context,
        kind=KIND,
        worker="enginebay_tensorrt_llm.in_process:main",
        packages=("enginebay_tensorrt_llm",),
        capabilities=IN_PROCESS,
        plan=_plan(context),
        start_timeout_s=options.start_timeout_s,
        stop_grace_s=options.stop_timeout_s,
        log_file=None if options.log_file is None else Path(options.log_file).expanduser(),
    )
