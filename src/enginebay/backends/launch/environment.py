"""What an engine that is not ours may see of our environment: a list of names, and never a secret."""

from __future__ import annotations

from collections.abc import Mapping

from enginebay.config.secret import has_password, is_secret_key

INHERITED = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TMP", "TEMP",
    "LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH",
    "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR",
    "HF_HOME", "HF_ENDPOINT", "TRANSFORMERS_OFFLINE", "TORCH_HOME", "TRITON_CACHE_DIR",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY",
    "ENGINEBAY_HOME",
)  # fmt: skip
INHERITED_PREFIXES = (
    "LC_", "CUDA_", "NVIDIA_", "NCCL_", "ROCR_", "HIP_", "OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "HF_HUB_",
)  # fmt: skip


def inherited_environment(ours: Mapping[str, str]) -> dict[str, str]:
    """The part of `ours` that is handed on. A secret in it is for us; an engine gets its own by its entry's
    `environment`. So is a proxy whose address has a user and a password in it."""
    return {name: value for name, value in ours.items() if _is_inherited(name) and not _is_secret(name, value)}


def _is_inherited(name: str) -> bool:
    return name in INHERITED or name.startswith(INHERITED_PREFIXES)


def _is_secret(name: str, value: str) -> bool:
    return is_secret_key(name) or has_password(value) or (name.lower().endswith("_proxy") and "@" in value)
