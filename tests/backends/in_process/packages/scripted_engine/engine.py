"""A foreign engine without weights: the prompt's first word says what it does."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Mapping

from enginebay.backends.in_process.foreign_engine import EngineFacts
from enginebay.backends.in_process.serve import serve_engine
from enginebay.backends.worker.channel import ChildChannel
from enginebay.errors import ContextTooLong, EngineDied, StartFailed
from enginebay.types import (
    Chat,
    EngineStats,
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    Prompt,
    Text,
    TextPart,
    TokenIds,
    Usage,
)


class ScriptedEngine:
    def __init__(self) -> None:
        self.num_running = 0
        self.num_cache_resets = 0
        self.last_request: GenerationRequest | None = None

    async def start(self, keywords: Mapping[str, object]) -> EngineFacts:
        match keywords.get("on_start"):
            case "fail":
                print("the device is missing", flush=True)
                raise StartFailed("no such device", likely_cause="there is none")
            case "crash":
                raise RuntimeError("the weights are torn")
            case "import":
                import a_module_that_nobody_has  # noqa: F401
            case "hang":
                await asyncio.Event().wait()
            case "block":
                _block()
            case "exit":
                sys.exit("the driver is gone")
            case "child":
                _leave_a_child(str(keywords["mark"]))
            case "hidden":
                _leave_a_hidden_child(str(keywords["mark"]))
            case _:
                pass
        return EngineFacts(
            engine_version="1.2.3",
            max_model_len=64,
            effective_settings={"model": keywords["model"], "python": sys.executable, "path": list(sys.path)},
        )

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        self.num_running += 1
        try:
            async for chunk in self._script(request):
                yield chunk
        finally:
            self.num_running -= 1

    async def _script(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        match _text(request.prompt).split():
            case ["refuse", *_]:
                raise ContextTooLong(num_tokens=9001, limit=64, max_tokens=7)
            case ["raise", *_]:
                raise ValueError("a foreign error")
            case ["die", *_]:
                raise EngineDied("the core is gone")
            case ["exit", *_]:
                yield _token(0)
                await asyncio.sleep(0)  # let the token out
                os._exit(3)
            case ["half", *_]:
                yield _token(0)
                return
            case ["stall", *_]:
                yield _token(0)
                await asyncio.Event().wait()
            case ["tell", *_]:
                yield _last(repr(request))
                return
            case ["block", *_]:
                yield _token(0)
                await asyncio.sleep(0)
                _block()
            case _:
                pass
        for index in range(request.sampling.max_tokens - 1):
            yield _token(index)
            await asyncio.sleep(0)
        yield _last(f" t{request.sampling.max_tokens - 1}", num_tokens=request.sampling.max_tokens)

    def stats(self) -> EngineStats:
        return EngineStats(requests_running=self.num_running, extra={"num_cache_resets": self.num_cache_resets})

    async def count_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        if isinstance(prompt, TokenIds):
            raise ContextTooLong(num_tokens=len(prompt.token_ids), limit=64)
        return tuple(len(word) for word in _text(prompt).split())

    async def reset_prefix_cache(self) -> None:
        self.num_cache_resets += 1

    async def close(self) -> None:
        print("closed in order", flush=True)


def _block() -> None:
    time.sleep(600)


def _leave_a_child(mark: str) -> None:
    subprocess.Popen([sys.executable, "-c", f"import time; time.sleep(600)  # {mark}"])


def _leave_a_hidden_child(mark: str) -> None:
    """In a session of its own, with an empty environment, and with a parent that has ended."""
    sleeper = [sys.executable, "-c", f"import time; time.sleep(600)  # {mark}"]
    leave = f"import subprocess; subprocess.Popen({sleeper!r}, start_new_session=True, env={{}})"
    subprocess.run([sys.executable, "-c", leave], check=True)


def _text(prompt: Prompt) -> str:
    if isinstance(prompt, Text):
        return prompt.text
    if isinstance(prompt, TokenIds):
        return " ".join(map(str, prompt.token_ids))
    assert isinstance(prompt, Chat)
    content = prompt.messages[0].content
    if isinstance(content, tuple):
        return " ".join(part.text for part in content if isinstance(part, TextPart))
    return content or ""


def _token(index: int) -> GenerationChunk:
    return GenerationChunk(text=f" t{index}", token_ids=(index,), num_tokens=1, received_at=0.0)


def _last(text: str, *, num_tokens: int = 1) -> GenerationChunk:
    return GenerationChunk(
        text=text,
        token_ids=(num_tokens - 1,),
        num_tokens=1,
        received_at=0.0,
        usage=Usage(num_prompt_tokens=1, num_output_tokens=num_tokens),
        finish_reason=FinishReason.LENGTH,
    )


def main(channel: ChildChannel) -> None:
    serve_engine(channel, ScriptedEngine)
