"""Run every benchmark of this folder, one after the other; each writes its JSON under `results/`.

Not those that need a GPU or a foreign engine (they say so themselves), nor those that have a target of their own, nor
the modules that write pages out of results or that others are made of.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
ON_THEIR_OWN = (
    "run_all", "client_ceiling", "gpu_comparison", "gpu_page", "comparison_page", "greedy_agreement", "bench_runs",
    "engine_bars", "engine_bars_page", "engine_tables", "speculation", "technique_claims", "technique_plans",
    "technique_result", "technique_tables", "techniques", "techniques_page", "techniques_plot", "soak", "soak_traffic",
    "verdict_recorder", "verdict_page", "client_page", "vllm_page", "page_section", "gateway", "gateway_streams",
    "gateway_sustained", "gateway_stage", "instant_server", "ticking_server", "litellm_proxy", "stream_figures",
    "stream_cases", "wrk", "bars", "counting_engine", "gateway_process", "gateway_disconnect", "disconnect_engines",
    "gateway_memory", "memory_traffic", "traced_cli", "gateway_figures_page", "chaos_accounts", "chaos_clients",
    "chaos_engine", "chaos_town", "gateway_rates_page", "gateway_streams_page", "report_lines",
)  # fmt: skip


def main() -> int:
    failed: list[str] = []
    for script in sorted(FOLDER.glob("*.py")):
        if script.stem in ON_THEIR_OWN:
            continue
        print(f"== {script.name}", flush=True)
        if subprocess.run([sys.executable, str(script)], check=False).returncode != 0:
            failed.append(script.name)
    print(f"failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
