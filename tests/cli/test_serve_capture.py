"""`enginebay serve --capture`, and `enginebay bench` with what it wrote, as processes."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from enginebay.loadtest.plan import load_plan
from enginebay.loadtest.records import read_records
from enginebay.loadtest.traces import read_trace
from enginebay.testing.scripted_server import ScriptedServer
from enginebay.testing.server_script import Script

SECRET = "the vault opens at nine"


@pytest.fixture
def model_dir(tmp_path) -> Path:
    """A model that has a tokenizer and nothing to compute with: every character is a token."""
    folder = tmp_path / "model"
    folder.mkdir()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


async def command(*arguments: object) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "enginebay.cli", *map(str, arguments),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def captured(config: Path, trace: Path, *prompts: str) -> tuple[int | None, str]:
    """Exit code and log of a server that was asked `prompts` one after the other, then told to end."""
    process = await command("serve", config, "--port", "0", "--capture", trace, "--capture-block-tokens", "8")
    try:
        assert process.stdout is not None
        ready = (await process.stdout.readline()).decode()
        url = ready.split()[1]
        for prompt in prompts:
            await ask(url, prompt)
        process.send_signal(signal.SIGTERM)
        _, log = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, log.decode()


async def ask(url: str, prompt: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps({"prompt": prompt, "max_tokens": 4}).encode()
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body)
    )
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200"), answer
    writer.close()
    await writer.wait_closed()


def test_what_serve_captures_bench_replays(tmp_path, model_dir) -> None:
    trace = tmp_path / "traffic.jsonl"

    async def main():
        async with ScriptedServer(Script(), model=str(model_dir)) as server:
            config = tmp_path / "config.yaml"
            config.write_text(
                f"version: 1\nmodel: {model_dir}\nbackend: one\n"
                f"backends: {{one: {{kind: openai_http, url: '{server.url}'}}}}\n"
                f"bench: {{workload: {{kind: trace, path: {trace}}}, arrivals: trace, warmup_requests: 1}}\n"
            )
            served = await captured(config, trace, f"{SECRET} today", f"{SECRET} tomorrow", "nothing")
            bench = await command("bench", config, "--out", tmp_path / "out")
            out, err = await bench.communicate()
            return served, (bench.returncode, out.decode(), err.decode())

    (code, log), (_, _, err) = asyncio.run(main())
    assert code == 0
    assert "traffic captured" in log
    assert "vault" not in trace.read_text()
    recorded = read_trace(trace)
    assert [request.num_output_tokens for request in recorded.requests] == [4, 4, 4]
    assert err == ""
    plan = load_plan(tmp_path / "out" / "plan.json")
    [load] = plan.loads
    assert str(load.load) == "trace traffic.jsonl at 1 x"
    lengths = [(request.num_prompt_tokens, request.sampling.max_tokens) for request in load.requests]
    assert lengths == [(request.num_input_tokens, 4) for request in recorded.requests]
    assert [request.offset_s for request in load.requests] == recorded.offsets
    assert len(read_records(tmp_path / "out" / "records.jsonl")) == 3


def test_a_capture_needs_a_new_file_and_a_block(tmp_path, model_dir) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        f"version: 1\nmodel: {model_dir}\nbackend: one\n"
        "backends: {one: {kind: openai_http, url: 'http://127.0.0.1:9'}}\n"
    )
    old = tmp_path / "old.jsonl"
    old.write_text("precious")

    async def main(*arguments: object) -> tuple[int | None, str]:
        process = await command("serve", config, "--port", "0", *arguments)
        _, err = await process.communicate()
        return process.returncode, err.decode()

    code, err = asyncio.run(main("--capture", old))
    assert (code, "exists already" in err) == (2, True)
    code, err = asyncio.run(main("--capture", tmp_path / "new.jsonl", "--capture-block-tokens", "0"))
    assert (code, "--capture-block-tokens is 0" in err) == (2, True)
