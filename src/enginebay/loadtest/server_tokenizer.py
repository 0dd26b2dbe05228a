"""The tokenizer of a running server, by its own counts: exact where nobody has the model's files at hand.

It tells the ids of a text and gives no text for ids. So a passage is cut by characters, guessed from what a token had
so far and corrected by what the server counts: three or four questions for a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache

from enginebay.errors import LoadTestError, UnsupportedFeature
from enginebay.guard import GuardedBackend
from enginebay.loadtest.estimated_tokenizer import EstimatedTokenizer
from enginebay.loadtest.plan import PlannedMessage
from enginebay.loop_thread import LoopThread
from enginebay.types import Chat, Feature, Message, Prompt, Text

NUM_REMEMBERED = 64
CHARACTERS_PER_TOKEN = 4.0
"""Of English, to begin with."""
UNALIKE = ("the", "and")
"""Words with no token in common, so that what both begin and end with are special tokens."""


class ServerTokenizer:
    def __init__(self, count_tokens: Callable[[Prompt], tuple[int, ...]]) -> None:
        """count_tokens: the ids that the server would see for a prompt, special tokens included."""
        self._count_tokens = count_tokens
        self._ids = lru_cache(maxsize=NUM_REMEMBERED)(lambda text: count_tokens(Text(text)))
        self._characters_per_token = CHARACTERS_PER_TOKEN

    def encode(self, text: str) -> list[int]:
        """An empty text is not asked for: not every server takes one."""
        before, after = self._special
        return list(self._ids(text)) if text else [*before, *after]

    def encode_plain(self, text: str) -> list[int]:
        before, after = self._special
        ids = self.encode(text)
        return ids[len(before) : len(ids) - len(after)]

    def encode_messages(self, messages: Sequence[PlannedMessage]) -> list[int]:
        chat = Chat(tuple(Message(message.role, message.content) for message in messages))
        try:
            return list(self._count_tokens(chat))
        except UnsupportedFeature as error:
            raise LoadTestError(
                f"this server cannot count prompts in the form of a chat: {error}. Set bench.prompt_form to text, or "
                "bench.prompt_counts to tokenizer or estimated"
            ) from error

    def cut(self, text: str, num_tokens: int) -> str:
        """The place is between `low`, which has too few tokens, and `high`, which has too many or is the end."""
        low, high = 0, len(text) + 1
        at = round(num_tokens * self._characters_per_token)
        while high - low > 1:
            at = max(low + 1, min(at, high - 1))
            num_found = len(self.encode_plain(text[:at]))
            if num_found == num_tokens:
                self._characters_per_token = at / num_tokens
                return text[:at]
            low, high = (at, high) if num_found < num_tokens else (low, at)
            at += round((num_tokens - num_found) * self._characters_per_token)
        return text[: max(1, low)]  # some cut adds two tokens at once: the writer takes another passage

    def beginning(self, word: str) -> str:
        """By the rule of thumb: there are thousands of words, and the server would have to be asked for each."""
        return EstimatedTokenizer().beginning(word)

    @cached_property
    def _special(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids before and behind every text."""
        one, other = (self._ids(word) for word in UNALIKE)
        num_before = _num_equal(one, other)
        num_after = _num_equal(one[num_before:][::-1], other[num_before:][::-1])
        return one[:num_before], one[len(one) - num_after :]


def _num_equal(one: Sequence[int], other: Sequence[int]) -> int:
    """Items that both begin with."""
    pairs = zip(one, other, strict=False)
    return next((index for index, (left, right) in enumerate(pairs) if left != right), min(len(one), len(other)))


@contextmanager
def asking(backend: GuardedBackend) -> Iterator[ServerTokenizer]:
    """Of a server that runs: the backend is started here, and closed at the end.

    Asked through a thread of its own, so that plans can be made where a loop runs already. Raises BackendError, and
    UnsupportedFeature of a server that does not tell tokens.
    """
    thread = LoopThread(backend)
    try:
        thread.run(backend.start)
        if Feature.COUNT_TOKENS not in backend.info.capabilities:
            raise UnsupportedFeature(field=Feature.COUNT_TOKENS.value, backend=backend.info.name)
        yield ServerTokenizer(lambda prompt: thread.run(lambda: backend.count_tokens(prompt)))
    finally:
        thread.close()
