"""Mode `in_process` as the parent sees it: vLLM's `AsyncLLM` in a worker process of ours."""

from __future__ import annotations

from pathlib import Path

from enginebay.backend import BackendContext
from enginebay.backends.in_process.backend import InProcessBackend
from enginebay_vllm.capabilities import in_process_capabilities
from enginebay_vllm.command import launch
from enginebay_vllm.options import VllmOptions
from enginebay_vllm.settings import compile_settings


def in_process_backend(context: BackendContext) -> InProcessBackend:
    options: VllmOptions = context.options
    return InProcessBackend(
        context,
        kind="vllm",
        worker="enginebay_vllm.in_process:main",
        packages=("enginebay_vllm",),
        capabilities=in_process_capabilities(options.version, options),
        plan=launch(context, compile_settings(context.settings, options.version)),
        start_timeout_s=options.start_timeout_s,
        stop_grace_s=options.stop_timeout_s,
        log_file=Path(options.log_file).expanduser() if options.log_file else None,
    )
