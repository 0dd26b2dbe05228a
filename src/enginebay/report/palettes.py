"""Colours of the page and its plots. Runs are told apart by lightness as well as hue, and named beside their lines."""

from __future__ import annotations

LIGHT = {
    "page": "#ffffff",
    "panel": "#f6f7f9",
    "ink": "#16202c",
    "muted": "#5a6675",
    "grid": "#e3e7ec",
    "wait": "#c5ccd6",
    "error": "#c0262d",
    "warning": "#8a5a00",
    "warning-page": "#fff3d6",
    "clear": "rgba(0,0,0,0)",
    "run0": "#6b7a8f",
    "run1": "#c2620a",
    "run2": "#0b7a75",
    "run3": "#5b3fc4",
    "run4": "#b0276f",
    "run5": "#1c62c9",
}
DARK = {
    "page": "#11161d",
    "panel": "#1a212b",
    "ink": "#e8edf3",
    "muted": "#9aa7b6",
    "grid": "#2a3441",
    "wait": "#465364",
    "error": "#ff7b7b",
    "warning": "#ffd479",
    "warning-page": "#3a2c07",
    "clear": "rgba(0,0,0,0)",
    "run0": "#a3b2c5",
    "run1": "#f59e42",
    "run2": "#3fd0c4",
    "run3": "#a995ff",
    "run4": "#f27bb6",
    "run5": "#6cabff",
}
NUM_RUN_COLORS = sum(name.startswith("run") for name in LIGHT)
