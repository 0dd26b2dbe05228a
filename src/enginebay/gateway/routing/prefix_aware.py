"""`prefix_aware`: where the longest beginning of the prompt was computed before, unless that replica is too full."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from random import Random
from typing import Annotated

from pydantic import Field

from enginebay.gateway.call import Call
from enginebay.gateway.routing.load import least_loaded, mean_load
from enginebay.gateway.routing.options import PolicyOptions
from enginebay.gateway.routing.policy import Candidate, CandidateT, RoutingPolicy, RoutingPolicySpec
from enginebay.gateway.routing.prefix_index import PrefixIndex
from enginebay.hookspecs import hookimpl
from enginebay.types import Chat, GenerationRequest, Message, Prompt, Text, TextPart, TokenIds

CHARACTERS_OF_TOKEN = 4
"""About: it makes blocks of token ids and of text equally long."""


class PrefixAwareOptions(PolicyOptions):
    block_characters: Annotated[int, Field(ge=16, le=65536)] = Field(
        default=256, description="Prompts are compared in blocks of this many characters."
    )
    max_blocks: Annotated[int, Field(ge=1)] = Field(
        default=100_000,
        description="Blocks that are remembered, about 100 bytes each; the longer unused half is forgotten at once.",
    )
    max_blocks_of_prompt: Annotated[int, Field(ge=1, le=4096)] = Field(
        default=64, description="Beginnings longer than this many blocks are not told apart."
    )
    max_load_ratio: Annotated[float, Field(ge=1, allow_inf_nan=False)] = Field(
        default=1.5, description="A replica with more than this times the mean load (and `slack`) is passed over."
    )
    slack: Annotated[int, Field(ge=0)] = Field(
        default=4, description="Requests in flight beyond the mean that are no reason to pass a replica over."
    )


class PrefixAware(RoutingPolicy):
    """Remembers which replica computed which beginning last, by chained hashes of blocks.

    The hash is Python's own, keyed anew in each process: nobody outside can make two prompts collide. A guess that is
    wrong, since an engine forgot what we remember, costs a prefill and nothing else.
    """

    def __init__(self, options: PrefixAwareOptions, rng: Random) -> None:
        self._options, self._rng = options, rng
        self._index = PrefixIndex(options.max_blocks)

    @property
    def num_blocks(self) -> int:
        return self._index.num_blocks

    def choose(self, call: Call, request: GenerationRequest, candidates: Sequence[CandidateT]) -> CandidateT:
        blocks = list(self._blocks(request))
        fit = [candidate for candidate in candidates if not self._is_too_full(candidate, candidates)]
        chosen = self._longest_match(blocks, fit) or least_loaded(fit or candidates, self._rng)
        self._index.remember(blocks, chosen.name)
        return chosen

    def _blocks(self, request: GenerationRequest) -> Iterator[int]:
        """Hashes of ever longer beginnings; a last block that is not full counts for none."""
        options = self._options
        whole, length = _comparable(request.prompt, options.block_characters)
        link = hash((request.adapter, request.cache_salt))
        for start in range(0, min(len(whole), options.max_blocks_of_prompt * length) - length + 1, length):
            link = hash((link, whole[start : start + length]))
            yield link

    def _is_too_full(self, candidate: Candidate, candidates: Sequence[Candidate]) -> bool:
        most = self._options.max_load_ratio * mean_load(candidates) * candidate.weight + self._options.slack
        return candidate.num_in_flight > most

    def _longest_match(self, blocks: Sequence[int], candidates: Sequence[CandidateT]) -> CandidateT | None:
        by_name = {candidate.name: candidate for candidate in candidates}
        for block in reversed(blocks):
            if (replica := self._index.replica_of(block)) in by_name:
                return by_name[replica]
        return None


def _comparable(prompt: Prompt, block_characters: int) -> tuple[str | bytes, int]:
    """What to cut into blocks, and how long these are. Token ids as bytes: the hash of numbers has no key."""
    if isinstance(prompt, TokenIds):
        return _bytes(prompt.token_ids), max(1, block_characters // CHARACTERS_OF_TOKEN) * array("q").itemsize
    if isinstance(prompt, Text):
        return prompt.text, block_characters
    return _chat_text(prompt), block_characters


def _bytes(token_ids: Sequence[int]) -> bytes:
    """Nothing of ids beyond 64 bits, which no engine takes: they are refused where requests are checked."""
    try:
        return array("q", token_ids).tobytes()
    except OverflowError:
        return b""


def _chat_text(chat: Chat) -> str:
    """Tools stand before the messages in the templates that we know."""
    tools = repr(chat.tools) if chat.tools else ""
    return tools + "".join(f"\x00{message.role}\x00{_message_text(message)}" for message in chat.messages)


def _message_text(message: Message) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    return "\x00".join(part.text if isinstance(part, TextPart) else part.url for part in message.content)


@hookimpl
def enginebay_routing_policy() -> RoutingPolicySpec:
    return RoutingPolicySpec(name="prefix_aware", options_model=PrefixAwareOptions, create=PrefixAware)
