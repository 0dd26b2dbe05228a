"""From `enginebay serve` to the line that says ready, and to the first token of the first request after it."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "serve_ready.json"
BODY = b'{"prompt": "The capital of France is", "max_tokens": 1, "temperature": 0}'


def measure() -> dict[str, float]:
    started_at = time.monotonic()
    server = subprocess.Popen(
        [sys.executable, "-m", "enginebay.cli", "serve", str(ROOT / "configs/serve-reference.yaml"), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert server.stdout is not None
        url = next(line.split()[1] for line in server.stdout if line.startswith("ready:"))
        ready_at = time.monotonic()
        request = urllib.request.Request(
            f"{url}/v1/completions", data=BODY, headers={"content-type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=60).read()
        return {"ready_s": ready_at - started_at, "first_answer_s": time.monotonic() - ready_at}
    finally:
        server.terminate()
        server.wait(timeout=30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    runs = [measure() for _ in range(parser.parse_args().repeats)]
    result = {
        "runs": runs,
        "median_ready_s": statistics.median(run["ready_s"] for run in runs),
        "median_first_answer_s": statistics.median(run["first_answer_s"] for run in runs),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
