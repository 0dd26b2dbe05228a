"""Entry point of the kind `tgi`: Hugging Face's Text Generation Inference."""

from __future__ import annotations

from enginebay.backend import BackendContext, BackendSpec
from enginebay.backends.http_engine.address import check_address
from enginebay.hookspecs import hookimpl
from enginebay_tgi.backend import KIND, create
from enginebay_tgi.capabilities import capabilities
from enginebay_tgi.command import check_image, check_version, launch, version
from enginebay_tgi.options import TgiOptions
from enginebay_tgi.recognise import RECOGNITION
from enginebay_tgi.settings import compile_settings

EVIDENCE = (
    "contract checked (TGI 3.3.7): against a simulator validated with the project's OpenAPI document and its official "
    "client; has not run against a real TGI"
)


@hookimpl
def enginebay_backend() -> BackendSpec:
    return BackendSpec(
        kind=KIND,
        options_model=TgiOptions,
        capabilities=capabilities,
        compile=compile_settings,
        create=create,
        # Docker first: TGI is published as an image, and its launcher is rarely installed on a machine itself.
        modes=("docker", "managed", "external"),
        version=version,
        launch=launch,
        check=check,
        recognition=RECOGNITION,
        evidence=EVIDENCE,
    )


def check(context: BackendContext) -> None:
    if context.mode == "external":
        check_address(context)
        return
    check_image(context)
    check_version(context)
