"""Part 4: the offline script with only its import changed, and the server asked by the official client."""

from __future__ import annotations

import openai
import pytest

pytestmark = pytest.mark.weights


def test_the_offline_script_runs_with_its_import_changed(capsys: pytest.CaptureFixture[str]) -> None:
    from enginebay import LLM, SamplingParams

    llm = LLM(model="smollm2-135m", tensor_parallel_size=1, max_num_seqs=256, max_model_len=4096)
    sampling_params = SamplingParams(temperature=0.8, top_p=0.95, max_tokens=20)
    prompts = [
        "Explain quantum computing in simple terms:",
        "Write a haiku about the sea:",
        "What is the meaning of life?",
    ]
    outputs = llm.generate(prompts, sampling_params)
    for output in outputs:
        print(f"Prompt: {output.prompt}")
        print(f"Generated: {output.outputs[0].text}")
    llm.close()

    assert [output.prompt for output in outputs] == prompts
    assert all(output.outputs[0].token_ids for output in outputs)
    assert all(len(output.outputs[0].token_ids or ()) <= 20 for output in outputs)
    assert capsys.readouterr().out.count("Prompt: ") == 3


def test_two_gpus_are_refused_by_name_where_the_engine_has_none() -> None:
    from enginebay import LLM, EngineBayError

    with pytest.raises(EngineBayError, match="tensor_parallel_size"):
        LLM(model="smollm2-135m", tensor_parallel_size=2)


def test_the_official_client_gets_a_completion_with_an_empty_key(server_url: str) -> None:
    with openai.OpenAI(api_key="EMPTY", base_url=f"{server_url}/v1", max_retries=0) as client:
        completion = client.completions.create(
            model="smollm2-135m", prompt="The capital of France is", max_tokens=8, temperature=0
        )
    assert "Paris" in completion.choices[0].text
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 8
