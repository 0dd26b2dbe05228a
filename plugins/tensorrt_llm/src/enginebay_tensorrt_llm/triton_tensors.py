"""Inputs and outputs of the models in TensorRT-LLM's Triton repository, as its programs expect them.

Left out: images, encoders, LoRA weights, draft tokens, prompt tables: nothing here asks for them.
Source: triton_backend/all_models/inflight_batcher_llm of TensorRT-LLM, 2a9abd9536aa and 89fd9b74ab7a.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Type = Literal["STRING", "INT32", "INT64", "UINT64", "FP16", "FP32", "BOOL"]


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    type: Type
    dims: tuple[int, ...] = (1,)
    optional: bool = False
    ragged: bool = False
    """Sequences of a batch may differ in length."""
    scalar: bool = False
    """Handed to the backend without its dimension of one."""


def _sampling() -> dict[str, Type]:
    return {
        "num_return_sequences": "INT32", "end_id": "INT32", "pad_id": "INT32", "top_k": "INT32", "top_p": "FP32",
        "temperature": "FP32", "length_penalty": "FP32", "repetition_penalty": "FP32", "min_tokens": "INT32",
        "presence_penalty": "FP32", "frequency_penalty": "FP32", "seed": "UINT64", "return_log_probs": "BOOL",
        "return_context_logits": "BOOL", "return_generation_logits": "BOOL", "return_perf_metrics": "BOOL",
        "return_num_input_tokens": "BOOL", "return_num_output_tokens": "BOOL", "exclude_input_in_output": "BOOL",
        "beam_width": "INT32", "stream": "BOOL",
    }  # fmt: skip


RENAMED = {
    "top_k": "runtime_top_k", "top_p": "runtime_top_p", "length_penalty": "len_penalty", "stream": "streaming",
}  # fmt: skip
"""Sampling inputs of the ensemble that the engine's model calls otherwise."""
FROM_PREPROCESSING = ("end_id", "pad_id")
"""Inputs that pass through the tokenizer's model, which fills them in."""
SAMPLING = _sampling()
GUIDED = ("guided_decoding_guide_type", "guided_decoding_guide")

RESULTS = (
    Tensor("cum_log_probs", "FP32", (-1,)),
    Tensor("output_log_probs", "FP32", (-1, -1)),
    Tensor("context_logits", "FP32", (-1, -1)),
    Tensor("generation_logits", "FP32", (-1, -1, -1)),
    Tensor("batch_index", "INT32"),
    Tensor("sequence_index", "INT32"),
    Tensor("kv_cache_alloc_new_blocks", "INT32"),
    Tensor("kv_cache_reused_blocks", "INT32"),
    Tensor("kv_cache_alloc_total_blocks", "INT32"),
    Tensor("arrival_time_ns", "INT64"),
    Tensor("first_scheduled_time_ns", "INT64"),
    Tensor("first_token_time_ns", "INT64"),
    Tensor("last_token_time_ns", "INT64"),
    Tensor("acceptance_rate", "FP32"),
    Tensor("total_accepted_draft_tokens", "INT32"),
    Tensor("total_draft_tokens", "INT32"),
    Tensor("num_input_tokens", "INT32"),
    Tensor("num_output_tokens", "INT32"),
)
"""Outputs of the engine's model that the ensemble hands on under the same name."""

ENSEMBLE_INPUTS = (
    Tensor("text_input", "STRING"),
    Tensor("max_tokens", "INT32"),
    Tensor("bad_words", "STRING", (-1,), optional=True),
    Tensor("stop_words", "STRING", (-1,), optional=True),
    *(Tensor(name, type, optional=True) for name, type in SAMPLING.items()),
    *(Tensor(name, "STRING", optional=True, ragged=True) for name in GUIDED),
)
ENSEMBLE_OUTPUTS = (Tensor("text_output", "STRING", (-1,)), *RESULTS)

PREPROCESSING_INPUTS = (
    Tensor("QUERY", "STRING"),
    Tensor("DECODER_QUERY", "STRING", optional=True),
    Tensor("REQUEST_OUTPUT_LEN", "INT32"),
    Tensor("BAD_WORDS_DICT", "STRING", (-1,), optional=True),
    Tensor("STOP_WORDS_DICT", "STRING", (-1,), optional=True),
    Tensor("EMBEDDING_BIAS_WORDS", "STRING", (-1,), optional=True),
    Tensor("EMBEDDING_BIAS_WEIGHTS", "FP32", (-1,), optional=True),
    Tensor("END_ID", "INT32", optional=True),
    Tensor("PAD_ID", "INT32", optional=True),
    Tensor("PROMPT_TABLE_EXTRA_ID", "UINT64", optional=True),
)
# The program asks for the type of every one of these, those of images among them.
PREPROCESSING_OUTPUTS = (
    Tensor("INPUT_ID", "INT32", (-1,)),
    Tensor("REQUEST_INPUT_LEN", "INT32"),
    Tensor("DECODER_INPUT_ID", "INT32", (-1,)),
    Tensor("REQUEST_DECODER_INPUT_LEN", "INT32"),
    Tensor("BAD_WORDS_IDS", "INT32", (2, -1)),
    Tensor("STOP_WORDS_IDS", "INT32", (2, -1)),
    Tensor("EMBEDDING_BIAS", "FP32", (-1,)),
    Tensor("REQUEST_OUTPUT_LEN", "INT32", (-1,)),
    Tensor("OUT_END_ID", "INT32"),
    Tensor("OUT_PAD_ID", "INT32"),
    Tensor("OUT_PROMPT_TABLE_EXTRA_IDS", "UINT64", (-1,)),
    Tensor("PIXEL_VALUES", "FP16", (-1, -1, -1, -1)),
    Tensor("ASPECT_RATIO_IDS", "INT64", (-1,)),
    Tensor("ASPECT_RATIO_MASK", "INT64", (-1, -1)),
    Tensor("CROSS_ATTENTION_MASK", "INT64", (-1, -1, -1)),
    Tensor("IMAGE_SIZES", "INT64", (-1, 2)),
    Tensor("IS_VIDEO_INPUT", "BOOL"),
    Tensor("ATTENTION_MASK", "INT64", (-1,)),
    Tensor("IMAGE_GRID_THW", "INT64", (3,)),
    Tensor("VISION_INPUT_ID", "INT32", (-1,)),
)

ENGINE_INPUTS = (
    Tensor("input_ids", "INT32", (-1,), optional=True, ragged=True),
    Tensor("input_lengths", "INT32", scalar=True),
    Tensor("request_output_len", "INT32", scalar=True),
    Tensor("decoder_input_ids", "INT32", (-1,), optional=True, ragged=True),
    Tensor("decoder_input_lengths", "INT32", optional=True, scalar=True),
    Tensor("stop_words_list", "INT32", (2, -1), optional=True, ragged=True),
    Tensor("bad_words_list", "INT32", (2, -1), optional=True, ragged=True),
    Tensor("embedding_bias", "FP32", (-1,), optional=True, ragged=True),
    *(Tensor(RENAMED.get(name, name), type, optional=True, scalar=True) for name, type in SAMPLING.items()),
    Tensor("stop", "BOOL", optional=True, scalar=True),
    *(Tensor(name, "STRING", optional=True, ragged=True) for name in GUIDED),
)
ENGINE_OUTPUTS = (Tensor("output_ids", "INT32", (-1, -1)), Tensor("sequence_length", "INT32", (-1,)), *RESULTS)

POSTPROCESSING_INPUTS = (Tensor("TOKENS_BATCH", "INT32", (-1, -1)), Tensor("SEQUENCE_LENGTH", "INT32", (-1,)))
POSTPROCESSING_OUTPUTS = (Tensor("OUTPUT", "STRING", (-1,)),)

# key of the model -> tensor of the ensemble; a leading underscore marks those that stay inside
PREPROCESSING_STEP_INPUTS = {
    "QUERY": "text_input", "REQUEST_OUTPUT_LEN": "max_tokens", "BAD_WORDS_DICT": "bad_words",
    "STOP_WORDS_DICT": "stop_words", "END_ID": "end_id", "PAD_ID": "pad_id",
}  # fmt: skip
PREPROCESSING_STEP_OUTPUTS = {
    "REQUEST_INPUT_LEN": "_REQUEST_INPUT_LEN", "INPUT_ID": "_INPUT_ID",
    "REQUEST_DECODER_INPUT_LEN": "_REQUEST_DECODER_INPUT_LEN", "DECODER_INPUT_ID": "_DECODER_INPUT_ID",
    "REQUEST_OUTPUT_LEN": "_REQUEST_OUTPUT_LEN", "STOP_WORDS_IDS": "_STOP_WORDS_IDS",
    "BAD_WORDS_IDS": "_BAD_WORDS_IDS", "EMBEDDING_BIAS": "_EMBEDDING_BIAS", "OUT_END_ID": "_PREPROCESSOR_END_ID",
    "OUT_PAD_ID": "_PREPROCESSOR_PAD_ID",
}  # fmt: skip
ENGINE_STEP_INPUTS = {
    "input_ids": "_INPUT_ID", "decoder_input_ids": "_DECODER_INPUT_ID", "input_lengths": "_REQUEST_INPUT_LEN",
    "decoder_input_lengths": "_REQUEST_DECODER_INPUT_LEN", "request_output_len": "_REQUEST_OUTPUT_LEN",
    "end_id": "_PREPROCESSOR_END_ID", "pad_id": "_PREPROCESSOR_PAD_ID", "embedding_bias": "_EMBEDDING_BIAS",
    "stop_words_list": "_STOP_WORDS_IDS", "bad_words_list": "_BAD_WORDS_IDS",
    **{RENAMED.get(name, name): name for name in SAMPLING if name not in FROM_PREPROCESSING},
    **{name: name for name in GUIDED},
}  # fmt: skip
ENGINE_STEP_OUTPUTS = {
    "output_ids": "_TOKENS_BATCH", "sequence_length": "_SEQUENCE_LENGTH",
    **{tensor.name: tensor.name for tensor in RESULTS},
}  # fmt: skip
POSTPROCESSING_STEP_INPUTS = {"TOKENS_BATCH": "_TOKENS_BATCH", "SEQUENCE_LENGTH": "_SEQUENCE_LENGTH"}
POSTPROCESSING_STEP_OUTPUTS = {"OUTPUT": "text_output"}
