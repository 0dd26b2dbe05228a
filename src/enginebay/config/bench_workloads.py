"""`bench.workload`: what is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from enginebay.config.bench_lengths import STRICT, PositiveFloat, PositiveInt, TokenLengths, TokenRange

FilePath = Annotated[Path, Field(strict=False)]


class ThinkTime(BaseModel):
    """Between an answer and the next question of a conversation: log-normal, or fixed where std_s is 0."""

    model_config = STRICT

    mean_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(default=0.0, description="Mean.")
    std_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(default=0.0, description="Standard deviation.")


class SyntheticConfig(BaseModel):
    """Passages of real text, cut to bench.input_tokens, each with a beginning of its own."""

    model_config = STRICT

    kind: Literal["synthetic"] = Field(default="synthetic", description="Passages of real text, cut to length.")


class SharedPrefixConfig(BaseModel):
    """Prompts that begin alike and go on with bench.input_tokens of their own, as with a system prompt."""

    model_config = STRICT

    kind: Literal["shared_prefix"] = Field(description="Prompts that begin alike.")
    prefix_tokens: PositiveInt = Field(description="Length of a shared beginning.")
    num_prefixes: PositiveInt = Field(default=1, description="Different beginnings; each request has one of them.")


class ConversationConfig(BaseModel):
    """Turns of a chat. The history holds recorded answers, so that every engine is asked the same."""

    model_config = STRICT

    kind: Literal["conversation"] = Field(description="Chats of several turns.")
    turns: TokenLengths = Field(default=TokenRange(min=2, max=5), description="Questions of one conversation.")
    system_tokens: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Length of a system message that all conversations of a run share; 0 is none."
    )
    think_time: ThinkTime = Field(default_factory=ThinkTime, description="Between an answer and the next question.")


class _FileConfig(BaseModel):
    model_config = STRICT

    path: FilePath = Field(description="The file, as seen from where the command runs.")
    all_turns: bool = Field(
        default=False, description="Whole conversations with the recorded answers as history; else the first question."
    )
    think_time: ThinkTime = Field(default_factory=ThinkTime, description="Between an answer and the next question.")
    max_input_tokens: PositiveInt | None = Field(default=None, description="Longer prompts are left out, and counted.")
    max_output_tokens: PositiveInt | None = Field(default=None, description="Longer outputs are left out, and counted.")
    reuse: bool = Field(
        default=False,
        description="Begin again when the file is used up: then some prompts are answered from a prefix cache.",
    )


class ShareGPTConfig(_FileConfig):
    """Conversations in ShareGPT's form: a JSON list, or one a line. Outputs are as long as the recorded answers."""

    kind: Literal["sharegpt"] = Field(description="Conversations in ShareGPT's form.")


class TableFieldsConfig(BaseModel):
    """Names of the file's fields."""

    model_config = STRICT

    prompt: str | None = Field(default=None, description="Field with the text that is asked; `prompt` if left out.")
    messages: str | None = Field(default=None, description="Or one with a list of messages with role and content.")
    answer: str | None = Field(default=None, description="Field with the recorded answer.")
    output_tokens: str | None = Field(default=None, description="Field with the number of tokens to generate.")

    @model_validator(mode="after")
    def _one_question(self) -> TableFieldsConfig:
        if self.prompt and self.messages:
            raise ValueError("a line has either a prompt or messages")
        return self


class TableConfig(_FileConfig):
    """Any JSONL or CSV file with named fields."""

    kind: Literal["table"] = Field(description="A JSONL or CSV file.")
    fields: TableFieldsConfig = Field(default_factory=TableFieldsConfig, description="Which field is what.")


class TraceConfig(BaseModel):
    """Recorded traffic without its texts: prompts of its lengths, which share beginnings as it says."""

    model_config = STRICT

    kind: Literal["trace"] = Field(description="Lengths and shared beginnings of recorded traffic.")
    path: FilePath = Field(description="The file, as seen from where the command runs.")
    format: Literal["mooncake", "burstgpt", "azure"] | None = Field(
        default=None, description="Told by the file's first line if left out."
    )
    block_tokens: PositiveInt | None = Field(
        default=None, description="Of Mooncake's: tokens of a block of hash_ids; found in the lengths if left out."
    )
    start_s: Annotated[float, Field(ge=0)] = Field(default=0.0, description="Seconds of the trace to leave out.")
    duration_s: PositiveFloat | None = Field(default=None, description="Seconds of the trace to take; all if left out.")
    max_input_tokens: PositiveInt | None = Field(default=None, description="Longer prompts are left out, and counted.")
    max_output_tokens: PositiveInt | None = Field(default=None, description="Longer outputs are left out, and counted.")


def _from_name(value: object) -> object:
    """`workload: synthetic` for `workload: {kind: synthetic}`."""
    return {"kind": value} if isinstance(value, str) else value


WorkloadConfig = Annotated[
    Annotated[
        SyntheticConfig | SharedPrefixConfig | ConversationConfig | ShareGPTConfig | TableConfig | TraceConfig,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_from_name),
]
