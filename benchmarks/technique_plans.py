"""Plans that no uniform workload gives: a beginning that all prompts share, and prompts out of a file."""

from __future__ import annotations

import json
from pathlib import Path

from enginebay.loadtest.plan import Load, Plan, PlannedLoad, PlannedRequest
from enginebay.loadtest.tokenizer import TextTokenizer
from enginebay.loadtest.workloads import PromptWriter
from enginebay.types import SamplingParams

PROMPTS = Path(__file__).parent / "prompts"
SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
"""What the chat template of SmolLM2 puts first."""


def shared_prefix_plan(
    tokenizer: TextTokenizer,
    *,
    model: str,
    users: int,
    num_requests: int,
    num_prefix_tokens: int = 1024,
    num_suffix_tokens: int = 32,
    num_output_tokens: int = 32,
) -> Plan:
    """One beginning for all, warmed once; every request goes on with words of its own. Greedy, no early stop."""
    writer = PromptWriter(tokenizer, seed=0)
    _, prefix = writer.write(num_prefix_tokens)
    sampling = SamplingParams(max_tokens=num_output_tokens, temperature=0.0, ignore_eos=True)

    def request(index: int) -> PlannedRequest:
        _, suffix = writer.write(num_suffix_tokens)
        token_ids = (*prefix, *suffix)
        return PlannedRequest(index=index, token_ids=token_ids, num_prompt_tokens=len(token_ids), sampling=sampling)

    warmup = (request(0),)
    requests = tuple(request(index) for index in range(num_requests))
    return Plan(
        model=model,
        workload=f"{num_requests} requests, {num_prefix_tokens} shared tokens and {num_suffix_tokens} of their own in, "
        f"{num_output_tokens} out; the shared ones were computed once before",
        seed=0,
        loads=(PlannedLoad(load=Load(users=users), warmup=warmup, requests=requests),),
    )


def prompts_of(name: str, tokenizer: TextTokenizer, sampling: SamplingParams) -> dict[str, PlannedRequest]:
    """`copy` or `free` under prompts/, by the prompts' names, as one turn of a chat."""
    lines = (PROMPTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    return {
        entry["name"]: _chat(index, entry, tokenizer=tokenizer, sampling=sampling) for index, entry in enumerate(found)
    }


def _chat(index: int, entry: dict[str, str], *, tokenizer: TextTokenizer, sampling: SamplingParams) -> PlannedRequest:
    asked = "\n\n".join(part for part in (entry["instruction"], entry.get("document")) if part)
    text = f"{SYSTEM}<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
    return PlannedRequest(index=index, text=text, num_prompt_tokens=len(tokenizer.encode(text)), sampling=sampling)
