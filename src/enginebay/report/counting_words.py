"""Who counted the tokens of the prompts before they were sent, in the words of all reports."""

from __future__ import annotations

from enginebay.loadtest.plan import PromptCounts
from enginebay.loadtest.result import Result

WORDS: dict[PromptCounts, str] = {
    "tokenizer": "Prompts were counted by the model's own tokenizer.",
    "server": "Prompts were counted by the server itself, at its /tokenize.",
    "estimated": "Lengths of prompts were estimated, since nobody could count them before; the engines' own usage "
    "tells what they were.",
}


def counting_words(result: Result) -> str:
    """One sentence."""
    if result.prompt_counts is None:
        return "The result does not tell how its prompts were counted."
    return WORDS[result.prompt_counts]
