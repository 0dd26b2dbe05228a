"""Results of single questions about the engine, as Markdown: a step's time, two bounds, the quality of int8."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Result = Mapping[str, Any]


def step_profile(result: Result) -> str:
    lines = [
        f"{_when_and_where(result)}, {result['users']} users:",
        "",
        "| engine | step | model | drawing tokens | scheduling and bookkeeping | between steps | at most | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        shares = (row["model_ratio"], row["sample_ratio"], row["rest_ratio"], row["between_ratio"])
        cells = [
            row["label"],
            f"{row['step_ms']['median']:.1f} ms",
            *(f"{share['median']:.1%}" for share in shares),
            f"{result['most_rest_ratio']:.0%}",
            "met" if row["is_met"] else "**missed**",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def memory_bound(result: Result) -> str:
    return (
        f"{_when_and_where(result)}: {result['decode_tokens_per_s']['median']:.1f} tokens/s while decoding, of "
        f"{result['most_tokens_per_s']:.0f} that reading {result['read_bytes_per_token'] / 1e6:.0f} MB for each token "
        f"at {result['read_bytes_per_s'] / 1e9:.1f} GB/s allows: {result['ratio']:.0%}. Wanted were "
        f"{result['wanted_ratio']:.0%}: {'met' if result['is_met'] else '**missed**'}."
    )


MOST_PERPLEXITY_RATIO = 1.02


def quantization_quality(result: Result) -> str:
    """Of each form its weights and its perplexity; of each pair how far apart they are."""
    text = result["text"]
    forms = {form["form"]: form for form in result["forms"]}
    head = [
        f"On {result['environment']['cpu']}; {text['num_windows']} windows of {text['window_tokens']} tokens of "
        f"{text['source']}, and {result['pairs'][0]['num_greedy_answers']} greedy answers:",
        "",
        "| form | kernels | weights | perplexity | against | perplexity ratio (95 %) | same best token "
        "| answers that part | at most 1.02 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *(_quality_line(pair, forms[pair["second"]]) for pair in result["pairs"])])


def _quality_line(pair: Result, form: Result) -> str:
    low, high = pair["perplexity_ratio_low"], pair["perplexity_ratio_high"]
    cells = [
        form["form"],
        form["kernels"],
        f"{form['weight_bytes'] / 2**20:,.0f} MiB",
        f"{form['perplexity']:.2f}",
        pair["first"],
        f"{pair['perplexity_ratio']:.4f} ({low:.4f} to {high:.4f})",
        f"{pair['equal_best_token_ratio']:.1%}",
        f"{pair['greedy_answers_that_part']} of {pair['num_greedy_answers']}",
        "met" if pair["perplexity_ratio"] <= MOST_PERPLEXITY_RATIO else "**missed**",
    ]
    return f"| {' | '.join(cells)} |"


def engine_vs_transformers(result: Result) -> str:
    lines = [
        f"On {result['environment']['cpu']}, {result['dtype']}, {result['num_input_tokens']} tokens in and "
        f"{result['num_output_tokens']} out, prefill counted:",
        "",
        "| sequences | engine, tokens/s | transformers, tokens/s | ratio | at least | |",
        "|---|---|---|---|---|---|",
    ]
    for batch in result["batches"]:
        speeds = batch["output_tokens_per_s"]
        verdict = "met" if batch["meets_bar"] else "**missed**"
        lines.append(
            f"| {batch['batch_size']} | {speeds['enginebay']:.1f} | {speeds['transformers']:.1f} | "
            f"{batch['ratio']:.2f}x | {batch['bar']}x | {verdict} |"
        )
    return "\n".join(lines)


def batch_invariance(result: Result) -> str:
    lines = [
        f"{_when_and_where(result)}, {result['dtype']}, prefill counted; in every round one sequence was "
        "computed alone as well:",
        "",
        "| kernels | tokens in, out | sequences | without, tokens/s | batch-invariant, tokens/s "
        "| ratio (least to most) | other tokens alone: without | batch-invariant |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(_invariance_line(run, batch) for run in result["runs"] for batch in run["batches"])])


def _invariance_line(run: Result, batch: Result) -> str:
    ratio, num_rounds = batch["speed_ratio"], batch["num_compared_alone"]
    cells = [
        run["kernels"],
        f"{run['num_input_tokens']}, {run['num_output_tokens']}",
        str(batch["batch_size"]),
        f"{batch['output_tokens_per_s']['median']:.1f}",
        f"{batch['output_tokens_per_s_batch_invariant']['median']:.1f}",
        f"{ratio['median']:.2f}x ({ratio['min']:.2f} to {ratio['max']:.2f})",
        f"{batch['num_changed_without']} of {num_rounds}",
        f"{batch['num_changed_with']} of {num_rounds}",
    ]
    return f"| {' | '.join(cells)} |"


def row_cost(result: Result) -> str:
    ratios = result["row_cost_ratio"]
    lines = [
        f"{_when_and_where(result)}, {result['dtype']}, {result['kernels']} kernels: {result['fitted_ratio']:.3f} of a "
        f"step of one row for each row more; drafts are reckoned with {result['assumed_ratio']:g}.",
        "",
        "| rows in a decode step | time | for each row more, as a share of a step of one |",
        "|---|---|---|",
    ]
    for rows, step_ms in result["step_ms"].items():
        lines.append(f"| {rows} | {step_ms:.1f} ms | {f'{ratios[rows]:.3f}' if rows in ratios else '-'} |")
    return "\n".join(lines)


def _when_and_where(result: Result) -> str:
    return f"Measured {result['created_at'][:10]} on {result['environment']['cpu']}"


ENGINE_TABLES: Mapping[str, Callable[[Result], str]] = {
    "step_profile": step_profile,
    "memory_bound": memory_bound,
    "engine_vs_transformers": engine_vs_transformers,
    "quantization_quality": quantization_quality,
    "batch_invariance": batch_invariance,
    "row_cost": row_cost,
}
"""By the name of the result file."""
