import os
import subprocess
import sys

import pytest
from pydantic import ValidationError

from enginebay.backends.reference.capabilities import capabilities
from enginebay.backends.reference.launch_plan import compile_settings, engine_config
from enginebay.backends.reference.options import ReferenceOptions
from enginebay.backends.reference.plugin import enginebay_backend
from enginebay.config.settings import EngineSettings
from enginebay.engine.settings import EngineConfig
from enginebay.errors import ConfigError
from enginebay.plugins import find_backend, get_backend
from enginebay.types import Feature


def outcome(**setting):
    [found] = compile_settings(setting, None).outcomes
    return found


def test_every_portable_setting_has_an_outcome_with_words():
    values = {"dtype": "float32", "log_level": "info", "trust_remote_code": True, "kv_cache_dtype": "fp8"}
    for name in EngineSettings.model_fields:
        found = outcome(**{name: values.get(name, 2)})
        assert (found.setting, found.value) == (name, values.get(name, 2))
        if found.outcome == "mapped":
            assert found.becomes
        else:
            assert found.why


@pytest.mark.parametrize(
    "setting",
    [
        {"tensor_parallel_size": 1},
        {"pipeline_parallel_size": 1},
        {"data_parallel": 1},
        {"kv_cache_dtype": "auto"},
        {"trust_remote_code": False},
    ],
)
def test_a_value_that_says_what_the_engine_does_anyway_is_mapped(setting):
    assert outcome(**setting).outcome == "mapped"


@pytest.mark.parametrize(
    "setting",
    [
        {"tensor_parallel_size": 2},
        {"pipeline_parallel_size": 2},
        {"data_parallel": 2},
        {"quantization": "fp8"},
        {"kv_cache_dtype": "fp8"},
        {"speculative_eagle": "m"},
    ],
)
def test_an_unsupported_setting_is_an_error_that_names_it_before_anything_starts(setting):
    assert outcome(**setting).outcome == "unsupported"
    [(name, value)] = setting.items()
    with pytest.raises(ConfigError) as caught:
        get_backend("reference", engine=setting)
    assert caught.value.path == f"engine.{name}"
    assert f"{name}={value!r}" in str(caught.value)
    assert outcome(**setting).why in str(caught.value)


@pytest.mark.parametrize(
    ("method", "told", "meant"),
    [
        ("int8", "mapped", "int8"),
        ("int8_weight_only", "mapped", "int8_weight_only"),
        ("w8a8_int8", "approximated", "int8"),
        ("int8_per_channel_weight_only", "approximated", "int8_weight_only"),
        ("W8A16", "approximated", "int8_weight_only"),
        ("eetq", "approximated", "int8_weight_only"),
    ],
)
def test_int8_is_known_by_the_names_of_other_engines(tmp_path, method, told, meant):
    found = outcome(quantization=method)
    assert found.outcome == told
    assert "int8 by output channel" in found.becomes
    assert bool(found.why) == (told == "approximated")
    assert engine_config({"quantization": method}, ReferenceOptions(), tmp_path).quantization == meant


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("compressed-tensors", "quantises while it loads"),
        ("gptq_marlin", "quantises while it loads"),
        ("fp8", "the nearest to fp8 is int8"),
        ("int4", "the nearest to int4 is int8_weight_only"),
    ],
)
def test_another_quantisation_is_refused_with_what_to_use(method, why):
    found = outcome(quantization=method)
    assert found.outcome == "unsupported"
    assert why in found.why
    assert "int8 or int8_weight_only" in found.why


@pytest.mark.parametrize(
    ("kernels", "quantization"), [("packed", "int8"), ("packed", "w8a16"), ("native", "int8_weight_only")]
)
def test_kernels_that_no_machine_has_for_a_quantisation_are_refused_before_anything_starts(kernels, quantization):
    with pytest.raises(ConfigError, match=f"kernels {kernels} have no int8") as caught:
        get_backend("reference", kernels=kernels, engine={"quantization": quantization})
    assert caught.value.path == "options.kernels"
    get_backend("reference", kernels="plain", engine={"quantization": quantization})


def test_a_quantisation_that_is_not_known_is_refused_by_name_whatever_the_kernels():
    with pytest.raises(ConfigError, match="fp8"):
        get_backend("reference", kernels="native", engine={"quantization": "fp8"})


@pytest.mark.parametrize(
    ("name", "told", "meant"),
    [("auto", "mapped", "auto"), ("int8", "mapped", "int8"), ("int8_per_token_head", "approximated", "int8")],
)
def test_the_type_of_the_kv_cache_arrives_in_the_engine_by_its_own_name_or_that_of_vllm(tmp_path, name, told, meant):
    found = outcome(kv_cache_dtype=name)
    assert found.outcome == told
    assert ("int8" in found.becomes) == (meant == "int8")
    assert bool(found.why) == (told == "approximated")
    assert engine_config({"kv_cache_dtype": name}, ReferenceOptions(), tmp_path).kv_cache_dtype == meant


@pytest.mark.parametrize("name", ["fp8", "bfloat16", "q8_0", "INT8"])
def test_another_type_of_the_kv_cache_is_refused_with_those_that_there_are(name):
    found = outcome(kv_cache_dtype=name)
    assert found.outcome == "unsupported"
    assert "auto" in found.why
    assert "int8" in found.why


def test_remote_code_is_approximated_since_it_is_never_run():
    assert outcome(trust_remote_code=True).outcome == "approximated"


def test_options_and_settings_arrive_in_the_engine(tmp_path):
    options = ReferenceOptions(
        policy="static",
        device="cuda:1",
        block_size=32,
        num_blocks=9,
        kv_cache_bytes=1000,
        static_batch_timeout_s=0.5,
        num_threads=3,
        kernels="plain",
        smooth_int8=False,
    )
    settings = {
        "quantization": "int8",
        "dtype": "float32",
        "max_num_seqs": 5,
        "max_model_len": 77,
        "max_num_batched_tokens": 99,
        "chunked_prefill": False,
        "seed": 1,
    }
    assert engine_config(settings, options, tmp_path) == EngineConfig(
        model_dir=str(tmp_path),
        dtype="float32",
        device="cuda:1",
        policy="static",
        max_num_seqs=5,
        max_model_len=77,
        max_num_batched_tokens=99,
        chunked_prefill=False,
        block_size=32,
        num_blocks=9,
        kv_cache_bytes=1000,
        static_batch_timeout_s=0.5,
        num_threads=3,
        kernels="plain",
        smooth_int8=False,
        quantization="int8",
    )


def test_without_options_and_settings_the_engine_has_its_own_defaults(tmp_path):
    assert engine_config({}, ReferenceOptions(), tmp_path) == EngineConfig(model_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("config", "dtype"),
    [('{"torch_dtype": "float16"}', "float16"), ('{"dtype": "bfloat16"}', "bfloat16"), ("{}", "float32")],
)
def test_dtype_auto_is_that_of_the_weights(tmp_path, config, dtype):
    (tmp_path / "config.json").write_text(config)
    assert engine_config({"dtype": "auto"}, ReferenceOptions(), tmp_path).dtype == dtype


def test_dtype_auto_needs_a_config_that_can_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json"):
        engine_config({"dtype": "auto"}, ReferenceOptions(), tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"policy": "fastest"},
        {"device": "tpu"},
        {"block_size": 0},
        {"kv_cache_bytes": "2 GiB"},
        {"static_batch_timeout_s": -1.0},
        {"static_batch_timeout_s": float("inf")},
        {"static_batch_timeout_s": 1e7},
        {"threads": 2},
    ],
)
def test_options_are_strict(options):
    with pytest.raises(ValidationError):
        ReferenceOptions.model_validate(options)


def test_more_threads_than_the_machine_can_use_are_refused_by_name():
    num_cores = os.cpu_count() or 1
    assert ReferenceOptions(num_threads=4 * num_cores).num_threads == 4 * num_cores
    with pytest.raises(ValidationError, match="num_threads is at most"):
        ReferenceOptions(num_threads=4 * num_cores + 1)


def test_capabilities_leave_out_what_would_be_ignored():
    plain = capabilities(None, ReferenceOptions())
    for absent in (Feature.IMAGES, Feature.TOOLS, Feature.ADAPTER, Feature.RESPONSE_FORMAT, Feature.CHAT_TEMPLATE):
        assert absent not in plain
    for present in (Feature.SEED, Feature.MIN_TOKENS, Feature.RESUME, Feature.COUNT_TOKENS, Feature.PREFILL_ONLY):
        assert present in plain
    assert Feature.CHAT_TEMPLATE in capabilities(None, ReferenceOptions(trust_request_chat_template=True))
    assert capabilities(None, ReferenceOptions(max_logprobs=3)).max_logprobs == 3


def test_the_plugin_enters_by_the_public_door_and_is_in_process():
    spec = find_backend("reference")
    assert spec.kind == enginebay_backend().kind == "reference"
    assert spec.modes == ("in_process",)
    assert spec.evidence


def test_finding_the_plugin_imports_neither_torch_nor_a_tokenizer():
    code = (
        "import sys; from enginebay.plugins import find_backend; find_backend('reference');"
        "print([name for name in ('torch', 'tokenizers', 'jinja2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_building_the_backend_does_not_import_torch_in_this_process():
    code = (
        "import sys; from enginebay import get_backend; get_backend('reference');"
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False False"


def test_a_static_batch_has_no_prefix_cache() -> None:
    with pytest.raises(ConfigError, match="in place") as caught:
        get_backend("reference", policy="static", enable_prefix_caching=True)
    assert caught.value.path == "engine.enable_prefix_caching"
    get_backend("reference", policy="static", enable_prefix_caching=False)


@pytest.mark.parametrize(
    ("settings", "options", "path"),
    [
        ({}, {"num_blocks": 9, "kv_cache_bytes": 9}, "options.kv_cache_bytes"),
        ({"gpu_memory_fraction": 0.5}, {"num_blocks": 9}, "engine.gpu_memory_fraction"),
        ({"gpu_memory_fraction": 0.5}, {"kv_cache_bytes": 9}, "engine.gpu_memory_fraction"),
    ],
)
def test_a_kv_cache_has_one_size(settings, options, path) -> None:
    with pytest.raises(ConfigError, match="is given 2 sizes") as caught:
        get_backend("reference", engine=settings, **options)
    assert caught.value.path == path


def test_a_fraction_of_memory_says_what_it_is_a_fraction_of(tmp_path) -> None:
    assert "on the CPU, of what is available" in str(outcome(gpu_memory_fraction=0.5).becomes)
    assert engine_config({"gpu_memory_fraction": 0.5}, ReferenceOptions(), tmp_path).gpu_memory_fraction == 0.5


def test_a_dynamic_batch_may_grow_to_256_where_nothing_bounds_it(tmp_path) -> None:
    options = ReferenceOptions(policy="dynamic", batch_rule="lesson")
    config = engine_config({}, options, tmp_path)
    assert (config.max_num_seqs, config.batch_rule) == (256, "lesson")
    assert engine_config({"max_num_seqs": 7}, options, tmp_path).max_num_seqs == 7


@pytest.mark.parametrize(
    ("settings", "options", "path"),
    [
        ({"speculative_ngram": 4, "speculative_draft_model": "m"}, {}, "engine.speculative_draft_model"),
        ({"speculative_ngram": 4}, {"speculative_self_draft": "int8"}, "options.speculative_self_draft"),
        ({"speculative_ngram": 4}, {"policy": "static"}, "engine.speculative_ngram"),
        ({}, {"policy": "static", "speculative_self_draft": "first_layers:2"}, "options.speculative_self_draft"),
    ],
)
def test_more_than_one_thing_that_drafts_and_static_batches_that_draft_are_refused(settings, options, path):
    with pytest.raises(ConfigError) as caught:
        get_backend("reference", engine=settings, options=options)
    assert caught.value.path == path


@pytest.mark.parametrize("self_draft", ["first_layers:0", "first_layers", "fp8", ""])
def test_what_a_model_cannot_be_cut_to_as_its_own_draft_is_refused(self_draft):
    with pytest.raises(ConfigError, match="speculative_self_draft"):
        get_backend("reference", options={"speculative_self_draft": self_draft})


def test_what_drafts_is_part_of_the_configuration_of_the_engine(tmp_path):
    settings = {"speculative_ngram": 6}
    config = engine_config(settings, ReferenceOptions(speculative_adaptive=False), tmp_path)
    assert (config.speculative_ngram, config.speculative_adaptive) == (6, False)
    config = engine_config({}, ReferenceOptions(speculative_num_tokens=3), tmp_path, draft_dir=tmp_path / "draft")
    assert (config.speculative_draft_dir, config.speculative_num_tokens) == (str(tmp_path / "draft"), 3)


@pytest.mark.parametrize(
    ("settings", "options", "expected"),
    [
        ({}, {"batch_rule": "lesson"}, "policy: dynamic"),
        ({}, {"policy": "dynamic", "static_batch_timeout_s": 1.0}, "policy: static"),
        ({"quantization": "int8_weight_only"}, {"smooth_int8": False}, "quantization: int8"),
        ({"speculative_ngram": 4}, {"speculative_num_tokens": 8}, "a draft model"),
        ({}, {"speculative_adaptive": False}, "something that drafts"),
    ],
)
def test_an_option_that_nothing_reads_is_refused(settings, options, expected):
    with pytest.raises(ConfigError, match=f"nothing reads.*{expected}") as caught:
        get_backend("reference", engine=settings, options=options)
    assert caught.value.path in {f"options.{name}" for name in options}


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, {"policy": "dynamic", "batch_rule": "lesson"}),
        ({}, {"policy": "static", "static_batch_timeout_s": 1.0}),
        ({"quantization": "w8a8"}, {"smooth_int8": False}),
        ({}, {"speculative_self_draft": "int8", "speculative_num_tokens": 8, "speculative_adaptive": False}),
        ({"speculative_ngram": 4}, {"speculative_adaptive": False}),
        ({}, {"batch_rule": "follow_queue", "speculative_num_tokens": 4}),  # as if they were left out
    ],
)
def test_an_option_beside_what_reads_it_is_taken(settings, options):
    assert get_backend("reference", engine=settings, options=options).info.kind == "reference"
