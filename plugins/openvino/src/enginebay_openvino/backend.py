"""The backend as the parent sees it: the model converted where it has to be, the engine in a worker process."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from enginebay.backend import BackendContext, LaunchPlan
from enginebay.backends.in_process.backend import InProcessBackend, Keywords, Progress
from enginebay.errors import StartFailed
from enginebay.models.progress import PullProgress
from enginebay_openvino.capabilities import capabilities
from enginebay_openvino.conversion import MODEL_FILE, convert
from enginebay_openvino.options import OpenVinoOptions
from enginebay_openvino.settings import DEFAULT_WEIGHT_FORMAT, compile_settings

_log = logging.getLogger(__name__)


def openvino_backend(context: BackendContext) -> InProcessBackend:
    options: OpenVinoOptions = context.options
    plan = with_options(context, compile_settings(context.settings, None))
    own = Path(context.model).expanduser()
    return InProcessBackend(
        context,
        kind="openvino",
        worker="enginebay_openvino.in_process:main",
        packages=("enginebay_openvino",),
        capabilities=capabilities(None, options),
        plan=plan,
        directory=own.absolute() if is_converted(own) else None,
        prepare=lambda directory, progress: _prepared(directory, progress, context, plan),
        offline=options.offline,
        start_timeout_s=options.start_timeout_s,
        stop_grace_s=options.stop_timeout_s,
        log_file=Path(options.log_file).expanduser() if options.log_file else None,
    )


def with_options(context: BackendContext, plan: LaunchPlan) -> LaunchPlan:
    """The plan's keywords with what `options:` say; an own property stands over a compiled one."""
    options: OpenVinoOptions = context.options
    keywords = {name: dict(values) for name, values in plan.keywords.items() if isinstance(values, dict)}
    properties = keywords.setdefault("properties", {})
    if options.num_threads is not None:
        properties["INFERENCE_NUM_THREADS"] = options.num_threads
    properties |= options.properties
    keywords.setdefault("scheduler", {})["cache_size"] = options.cache_size_gb
    keywords.setdefault("conversion", {}).setdefault("weight_format", DEFAULT_WEIGHT_FORMAT)
    return replace(plan, keywords={"device": options.device, **keywords})


def is_converted(directory: Path) -> bool:
    return (directory / MODEL_FILE).is_file()


def _prepared(directory: Path, progress: Progress, context: BackendContext, plan: LaunchPlan) -> Keywords:
    """In a thread. Raises ModelError or StartFailed."""
    conversion = plan.keywords["conversion"]
    assert isinstance(conversion, dict)
    if is_converted(directory):
        if "quantization" in context.settings:
            what = f"{directory} is converted already: engine.quantization cannot change its weights"
            raise StartFailed(what, backend=context.name)
        return {"model": str(directory)}
    options: OpenVinoOptions = context.options
    converted = convert(
        directory,
        weight_format=str(conversion["weight_format"]),
        trust_remote_code=bool(conversion.get("trust_remote_code")),
        venvs=(options.convert_venv, context.venv),
        progress=_Logged(progress, f"{context.model} for OpenVINO ({conversion['weight_format']})"),
    )
    return {"model": str(converted)}


class _Logged:
    """Each phase of a conversion as one line of the log: it takes a while, and nobody asked for it."""

    def __init__(self, progress: Progress, what: str) -> None:
        self._progress, self._what = progress, what
        self._step = ""

    def __call__(self, progress: PullProgress) -> None:
        if progress.step != self._step:
            self._step = progress.step
            _log.info("converting %s: %s", self._what, progress.step)
        self._progress(progress)
