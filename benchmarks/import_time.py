"""How long `import enginebay` and `enginebay --help` take in a fresh interpreter, and what they load.

    python benchmarks/import_time.py [--out FILE]

Prints JSON: medians over fresh processes, the interpreter's own start subtracted nowhere. Exit code 1 beyond a bar.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

NUM_RUNS = 10
CASES = {
    "bare_interpreter_s": (["-c", "pass"], None),
    "import_s": (["-c", "import enginebay"], 0.3),
    "help_s": (["-m", "enginebay.cli", "--help"], 0.5),
}
SLOWEST = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    medians = {name: median_s(arguments) for name, (arguments, _) in CASES.items()}
    bars = {name: bar for name, (_, bar) in CASES.items() if bar is not None}
    text = json.dumps(
        {
            "python": platform.python_version(),
            "machine": platform.platform(),
            "num_runs": NUM_RUNS,
            **{name: round(value, 4) for name, value in medians.items()},
            "bars_s": bars,
            "slowest_imports_us": slowest_imports(),
        },
        indent=2,
    )
    print(text)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n", encoding="utf-8")
    return 0 if all(medians[name] <= bar for name, bar in bars.items()) else 1


def median_s(arguments: list[str]) -> float:
    run(arguments)  # fills the file cache and the compiled modules
    times: list[float] = []
    for _ in range(NUM_RUNS):
        start_at = time.perf_counter()
        run(arguments)
        times.append(time.perf_counter() - start_at)
    return statistics.median(times)


def run(arguments: list[str]) -> str:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True).stderr


def slowest_imports() -> dict[str, int]:
    """Cumulative microseconds of the top modules of `import enginebay`, from -X importtime."""
    lines = run(["-X", "importtime", "-c", "import enginebay"]).splitlines()[1:]
    rows = [line.removeprefix("import time:").split("|") for line in lines]
    costs = {name.strip(): int(cumulative) for _, cumulative, name in rows}
    return dict(sorted(costs.items(), key=lambda item: -item[1])[:SLOWEST])


if __name__ == "__main__":
    sys.exit(main())
