"""One picture of a result of benchmarks/techniques.py: for each technique, how many tokens a second each setting gives.

Drawn as SVG by hand, in colours that read on a light and on a dark page; it needs no library and changes only where a
figure does.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

WIDTH, LABEL_WIDTH, ROW_HEIGHT, TITLE_HEIGHT, MARGIN = 860, 250, 24, 40, 16
BAR_END = WIDTH - 130
INK, BASE_COLOR, COLOR = "#7a7a7a", "#9aa5b1", "#2f7ed8"
TITLES = {
    "policies": "Batching",
    "prefix_cache": "Prefix cache, 1,024 shared tokens",
    "prefix_cache_miss": "Prefix cache, nothing shared",
    "speculation": "Speculation, one user",
    "precision": "Precision",
    "batch_size": "Batch by the queue",
    "batch_invariant": "Batch-invariant tokens",
}


def plot(result: Mapping[str, Any]) -> str:
    """An SVG document; each group's bars are to the scale of its fastest row."""
    parts: list[str] = []
    top = float(MARGIN)
    for name, title in TITLES.items():
        rows = result["groups"].get(name, {}).get("rows", [])
        bars = [(label, row["output_tokens_per_s"]["median"]) for label, row in _labelled(rows)]
        if bars:
            parts += _group(title, bars, top, base=rows[0]["label"])
            top += TITLE_HEIGHT + ROW_HEIGHT * len(bars)
    body = "\n".join(parts)
    height = top + MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-label="Output tokens per second by technique" font-family="system-ui, sans-serif" font-size="13">\n'
        f"{body}\n</svg>\n"
    )


def _labelled(rows: list[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Rows with a figure, by load, told apart by their load."""
    measured = [row for row in rows if row["output_tokens_per_s"]]
    return [
        (f"{row['label']}, {load}", row)
        for load, row in sorted(((_load(row), row) for row in measured), key=lambda pair: (len(pair[0]), pair[0]))
    ]


def _load(row: Mapping[str, Any]) -> str:
    if "prompts" in row:
        return "copied" if row["prompts"] == "copy" else "not copied"
    return f"{row['users']} users"


def _group(title: str, bars: list[tuple[str, float]], top: float, *, base: str) -> list[str]:
    """base: label of the setting that the others are looked at against; its bars are grey."""
    fastest = max(speed for _, speed in bars) or 1.0
    lines = [f'<text x="{MARGIN}" y="{top + 24:.0f}" fill="{INK}" font-weight="600">{escape(title)}</text>']
    for number, (label, speed) in enumerate(bars):
        y = top + TITLE_HEIGHT - 6 + number * ROW_HEIGHT
        width = (BAR_END - LABEL_WIDTH) * speed / fastest
        color = BASE_COLOR if label.startswith(f"{base}, ") else COLOR
        lines += [
            f'<text x="{LABEL_WIDTH - 10}" y="{y + 13:.0f}" fill="{INK}" text-anchor="end">{escape(label)}</text>',
            f'<rect x="{LABEL_WIDTH}" y="{y:.0f}" width="{width:.1f}" height="17" rx="2" fill="{color}"/>',
            f'<text x="{LABEL_WIDTH + width + 8:.1f}" y="{y + 13:.0f}" fill="{INK}">{speed:.0f} tokens/s</text>',
        ]
    return lines
