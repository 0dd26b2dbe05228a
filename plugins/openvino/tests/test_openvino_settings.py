from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginebay.backend import BackendContext, LaunchPlan
from enginebay.clock import MonotonicClock
from enginebay.config.settings import EngineSettings
from enginebay.errors import ConfigError
from enginebay.plugins import compile_plan, find_backend, get_backend
from enginebay_openvino.options import OpenVinoOptions
from enginebay_openvino.settings import SECTIONS, compile_settings

GOLDEN = Path(__file__).parent / "golden" / "2026.4.1"
SCHEDULER_ATTRIBUTES = {
    "cache_size", "dynamic_split_fuse", "enable_prefix_caching", "max_num_batched_tokens", "max_num_seqs",
}  # fmt: skip
"""Of the SchedulerConfig of 2026.4.1, those that are made use of."""
CPU_PROPERTIES = {"INFERENCE_NUM_THREADS", "INFERENCE_PRECISION_HINT", "KV_CACHE_PRECISION", "LOG_LEVEL"}
"""Of the CPU device of 2026.4.1, likewise."""

VALUES = st.fixed_dictionaries(
    {},
    optional={
        "tokenizer": st.just("other"),
        "revision": st.just("main"),
        "dtype": st.sampled_from(["auto", "float16", "bfloat16", "float32"]),
        "quantization": st.sampled_from(["int8", "int4", "fp16", "fp8", "awq"]),
        "kv_cache_dtype": st.sampled_from(["auto", "float16", "int8", "fp8_e5m2"]),
        "log_level": st.sampled_from(["debug", "info", "warning", "error"]),
        **{name: st.integers(1, 4) for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel")},
        **{name: st.integers(1, 9999) for name in ("max_num_seqs", "max_model_len", "max_num_batched_tokens", "seed")},
        **{name: st.booleans() for name in ("enable_prefix_caching", "chunked_prefill", "trust_remote_code")},
        "gpu_memory_fraction": st.just(0.9),
        "speculative_draft_model": st.just("draft"),
        "speculative_ngram": st.just(3),
        "speculative_eagle": st.just("head"),
        "served_model_name": st.just("assistant"),
    },
)


@given(VALUES)
def test_every_setting_has_one_outcome_and_only_known_words_come_of_it(settings: dict[str, object]) -> None:
    EngineSettings.model_validate(settings)
    plan = compile_settings(settings, None)
    assert [outcome.setting for outcome in plan.outcomes] == list(settings)
    assert all(outcome.why if outcome.outcome != "mapped" else outcome.becomes for outcome in plan.outcomes)
    assert set(plan.keywords) <= set(SECTIONS)
    assert set(section(plan, "scheduler")) <= SCHEDULER_ATTRIBUTES
    assert set(section(plan, "properties")) <= CPU_PROPERTIES


def test_every_portable_setting_is_known() -> None:
    from enginebay_openvino.settings import _RULES

    assert set(_RULES) == set(EngineSettings.model_fields)


def section(plan: LaunchPlan, name: str) -> dict[str, object]:
    values = plan.keywords.get(name, {})
    assert isinstance(values, dict)
    return values


@pytest.mark.parametrize(
    ("settings", "outcome", "becomes"),
    [
        ({"chunked_prefill": False}, "mapped", "SchedulerConfig.dynamic_split_fuse=False"),
        ({"quantization": "int8"}, "mapped", "optimum-cli --weight-format int8"),
        ({"quantization": "fp8"}, "unsupported", ""),
        ({"dtype": "float32"}, "mapped", "property INFERENCE_PRECISION_HINT=f32, optimum-cli --weight-format fp32"),
        (
            {"dtype": "bfloat16"},
            "approximated",
            "property INFERENCE_PRECISION_HINT=bf16, optimum-cli --weight-format fp16",
        ),
        ({"kv_cache_dtype": "float16"}, "mapped", "property KV_CACHE_PRECISION=f16"),
        ({"tensor_parallel_size": 1}, "mapped", "one device, the only number there is"),
        ({"tensor_parallel_size": 2}, "unsupported", ""),
        ({"gpu_memory_fraction": 0.9}, "unsupported", ""),
    ],
)
def test_what_settings_become(settings: dict[str, object], outcome: str, becomes: str) -> None:
    [told] = compile_settings(settings, None).outcomes
    assert (told.outcome, told.becomes) == (outcome, becomes)


@pytest.mark.parametrize("names", [("quantization", "dtype"), ("dtype", "quantization")])
def test_quantised_weights_stand_over_the_type_whatever_comes_first(names: tuple[str, ...]) -> None:
    values = {"quantization": "int8", "dtype": "float32"}
    plan = compile_settings({name: values[name] for name in names}, None)
    assert section(plan, "conversion") == {"weight_format": "int8"}
    assert section(plan, "properties") == {"INFERENCE_PRECISION_HINT": "f32"}


@pytest.mark.parametrize(
    ("name", "settings", "options"),
    [
        ("defaults", {}, {}),
        (
            "tuned",
            {
                "dtype": "bfloat16",
                "quantization": "int8",
                "max_num_seqs": 64,
                "max_model_len": 4096,
                "max_num_batched_tokens": 512,
                "enable_prefix_caching": True,
                "kv_cache_dtype": "float16",
                "seed": 7,
            },
            {"num_threads": 2, "cache_size_gb": 1},
        ),
        (
            "intel-gpu",
            {"chunked_prefill": True},
            {"device": "GPU.1", "properties": {"CACHE_DIR": "/var/cache/ov"}},
        ),
    ],
)
def test_the_constructors_arguments_are_the_golden_ones(name: str, settings, options) -> None:
    context = BackendContext(
        name="openvino",
        model="smollm2-135m",
        options=OpenVinoOptions.model_validate(options),
        settings=settings,
        clock=MonotonicClock(),
    )
    plan = compile_plan(find_backend("openvino"), context)
    lines: list[str] = []
    for key, value in sorted(plan.keywords.items()):
        values = value if isinstance(value, dict) else {"": value}
        lines += [f"{key}.{inner}={item!r}".replace(".=", "=") for inner, item in sorted(values.items())]
    assert "\n".join(lines) + "\n" == (GOLDEN / f"{name}.txt").read_text()


def test_a_setting_that_cannot_be_honoured_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"engine\.tensor_parallel_size"):
        get_backend("openvino", tensor_parallel_size=2)
    with pytest.raises(ConfigError, match="device"):
        get_backend("openvino", device="cpu")
