"""Run by the interpreter that has the official client: `python tgi_client_calls.py URL all|one_error`.

Prints as JSON what the client was given.
Nothing of ours is imported here, and the client is used as its own documentation shows it.
"""

import asyncio
import json
import sys
from collections.abc import Callable

import pydantic
from text_generation import AsyncClient, Client  # pyright: ignore[reportMissingImports] - in that environment alone
from text_generation.types import ChoiceDelta  # pyright: ignore[reportMissingImports]

PROMPT = "the quick brown fox"
MESSAGES = [{"role": "user", "content": PROMPT}]


def main(url: str, what: str) -> None:
    client = Client(url, timeout=10)
    if what == "one_error":
        print(
            json.dumps([raised(lambda: client.generate(PROMPT)), raised(lambda: list(client.generate_stream(PROMPT)))])
        )
        return
    found = {
        "whole": client.generate(PROMPT, max_new_tokens=6).model_dump(),
        "full_text": client.generate(PROMPT, max_new_tokens=2, return_full_text=True).generated_text,
        "top": client.generate(PROMPT, max_new_tokens=3, top_n_tokens=2).model_dump(),
        "prefill": client.generate(PROMPT, max_new_tokens=2, decoder_input_details=True).model_dump(),
        "sampled": client.generate(
            PROMPT, max_new_tokens=6, do_sample=True, seed=7, temperature=0.8, top_p=0.9, top_k=50, typical_p=0.9,
            repetition_penalty=1.1, truncate=3, watermark=False,
        ).model_dump(),
        "stream": [event.model_dump() for event in client.generate_stream(PROMPT, max_new_tokens=6)],
        "stopped": client.generate(PROMPT, max_new_tokens=50, stop_sequences=["e"]).model_dump(),
        "eos": client.generate(PROMPT, max_new_tokens=2000).model_dump(),
        "chat": client.chat(
            MESSAGES, max_tokens=6, temperature=0.5, seed=3, logprobs=True, top_logprobs=2
        ).model_dump(),
        "chat_stream": chat_stream(client),
        "async": asyncio.run(asynchronous(url)),
        "errors": errors(client),
    }  # fmt: skip
    print(json.dumps(found, default=str))


def chat_stream(client: Client) -> str:
    """The client's own defect: it wants `tool_calls` in every piece, which TGI's document has in those of tools alone,
    and fails again while it reports that."""
    ChoiceDelta.model_validate({"role": "assistant", "content": "", "tool_calls": None})
    try:
        ChoiceDelta.model_validate({"role": "assistant", "content": ""})
    except pydantic.ValidationError:
        return raised(lambda: list(client.chat(MESSAGES, max_tokens=4, stream=True)))
    return "the client can read a documented piece"


async def asynchronous(url: str) -> dict[str, object]:
    client = AsyncClient(url, timeout=10)
    whole, chat = await asyncio.gather(client.generate(PROMPT, max_new_tokens=6), client.chat(MESSAGES, max_tokens=3))
    stream = [event.model_dump() async for event in client.generate_stream(PROMPT, max_new_tokens=6)]
    return {"whole": whole.model_dump(), "chat": chat.model_dump(), "stream": stream}


def errors(client: Client) -> dict[str, str]:
    """What the client raises: itself for what it checks, else for what the server answers."""
    return {
        "own_check": raised(lambda: client.generate(PROMPT, top_p=1.0)),
        "validation": raised(lambda: client.generate(PROMPT, max_new_tokens=99_999)),
        "validation_in_stream": raised(lambda: list(client.generate_stream(PROMPT, max_new_tokens=99_999))),
        "too_many_stops": raised(lambda: client.generate(PROMPT, stop_sequences=list("abcde"))),
        "chat_validation": raised(lambda: client.chat(MESSAGES, max_tokens=99_999)),
    }


def raised(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:  # noqa: BLE001 - whatever the client raises is told
        return f"{type(error).__module__}.{type(error).__name__}: {error}"
    return "nothing"


if __name__ == "__main__":
    main(*sys.argv[1:])
