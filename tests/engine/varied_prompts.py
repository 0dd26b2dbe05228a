"""Sixty-six prompts that differ in what tends to break an engine: length, script, code, repetition, chat."""

from __future__ import annotations

TINY = ("", " ", "\n", "a", "1", ".", "The", "{", "é", "🙂")

PROSE = (
    "The capital of France is",
    "Once upon a time",
    "Water boils at a temperature of",
    "In 1969, the first humans",
    "Photosynthesis is the process by which",
    "The three primary colours are red,",
    "She opened the door and",
    "To make a good cup of tea, first",
    "The opposite of hot is",
    "My favourite season is autumn because",
    "A list of fruits: apple, banana,",
    "The quick brown fox jumps over the lazy dog. The quick brown fox",
    "Q: What is the largest planet?\nA:",
    "Dear Sir or Madam,\n\nI am writing to",
    "Roses are red,\nviolets are blue,\n",
    "0, 1, 1, 2, 3, 5, 8, 13,",
    "2 + 2 = 4\n3 + 3 = 6\n4 + 4 =",
    "Monday, Tuesday, Wednesday,",
    "BREAKING NEWS:",
    "    indented by four spaces and then",
)

CODE = (
    "def fibonacci(n):\n    ",
    "for (int i = 0; i < 10; i++) {\n",
    "SELECT name, age FROM users WHERE",
    "<html>\n<head>\n<title>",
    '{"name": "Ada", "born": 1815, "field":',
    "import numpy as np\n\nx = np.",
    "#!/bin/bash\nset -e\n",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
    "fn main() {\n    println!(",
    "| a | b |\n|---|---|\n| 1 |",
    "git commit -m",
    "\\begin{equation}\n  E =",
)

UNICODE = (
    "La tour Eiffel se trouve à",
    "Die Hauptstadt von Österreich ist",
    "日本の首都は",
    "Москва — это",
    "العربية لغة",
    "¿Cómo estás? Yo estoy",
    "안녕하세요, 저는",
    "🙂🙃🙂🙃🙂",
    "naïve café résumé —",
    "∑ᵢ xᵢ² ≤ ∞ ⇒",
    "e\u0301 and é are",
    "\u200bzero\u00a0width and\tno-break",
)

CHATS = (
    "Hello!",
    "What is gravity?",
    "Write a haiku about the sea.",
    "Name three animals that can fly.",
    "Translate 'good morning' into French.",
    "What is 12 times 12?",
    "Reply with the single word: yes",
    "Explain recursion to a child.",
)

LONG = (
    "In the beginning there was a lamp by the harbour, and every night its keeper climbed the stairs. " * 6,
    "alpha beta gamma delta " * 40,
    "The committee met on the first day of the month to discuss the budget. Nobody agreed on anything. " * 10,
    "".join(f"def function_{number}(x):\n    return x + {number}\n\n" for number in range(22)),
)


def all_prompts(tokenizer: object) -> list[list[int]]:
    """Token ids. tokenizer is one of transformers, with a chat template."""
    texts = [*PROSE, *CODE, *UNICODE, *LONG]
    prompts = [tokenizer.encode(text, add_special_tokens=False) for text in texts]  # type: ignore[attr-defined]
    # nothing at all is no prompt: it gets what such models begin with
    prompts += [tokenizer.encode("<|im_start|>" + text, add_special_tokens=False) for text in TINY]  # type: ignore[attr-defined]
    for text in CHATS:
        chat = tokenizer.apply_chat_template(  # type: ignore[attr-defined]
            [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
        )
        prompts.append(tokenizer.encode(chat, add_special_tokens=False))  # type: ignore[attr-defined]
    return prompts
