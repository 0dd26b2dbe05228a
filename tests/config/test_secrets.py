"""What comes from the environment, or is a secret by its key, is used and never shown."""

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from enginebay.config.diagnostics import describe
from enginebay.config.environment import MalformedReference, MissingVariable, expand
from enginebay.config.loader import parse_config
from enginebay.config.secret import MASK, Secret, is_secret_flag, is_secret_key, masked, revealed
from enginebay.configured import check_backend
from enginebay.errors import ConfigError

KEY = "sk-verysecret-4711"
TEXT = """
version: 1
model: ${MODEL:-smollm2-135m}
backends:
  a:
    kind: openai_http
    url: https://user:${KEY}@example.org
    options: {api_key: "${KEY}", headers: {x-token: literal-token}, list: ["Bearer ${KEY}"]}
    environment: {HF_TOKEN: another-secret, PLAIN: shown}
"""


def all_of(error: ConfigError | ValidationError) -> str:
    """The error with everything that a traceback would print."""
    text = f"{error!s} {error!r}"
    return text + (all_of(error.__cause__) if isinstance(error.__cause__, ValidationError) else "")  # type: ignore[arg-type]


def refusal(text: str, **environment: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, file="some.yaml", environment=environment)
    return caught.value


def test_references_are_replaced_in_strings_with_defaults_as_in_a_shell() -> None:
    environment = {"A": "x", "EMPTY": ""}
    assert expand("${A}-${B:-y}-${EMPTY:-z}", environment) == ("x-y-z", ("A",))
    assert expand("$A $${A} $ {} ${B:-}", environment) == ("$A ${A} $ {} ", ())
    with pytest.raises(MissingVariable, match="B is not set"):
        expand("${B}", environment)
    for malformed in ("${", "${A", "${}", "${1A}", "${A-b}", "${A B}"):
        with pytest.raises(MalformedReference):
            expand(malformed, environment)


def test_a_value_is_not_expanded_twice() -> None:
    assert parse_config("version: 1\nmodel: ${A}", environment={"A": "${B}"}).model == "${B}"


def test_a_missing_variable_is_told_by_name_with_file_path_and_line() -> None:
    assert str(refusal("version: 1\nbackends:\n  a:\n    options: {api_key: '${GONE}'}")) == (
        "some.yaml:4: backends.a.options.api_key: the environment variable GONE is not set; "
        "set it, or give a default: ${GONE:-...}"
    )


def test_secrets_reach_the_config_but_no_repr_and_no_json_of_it() -> None:
    config = parse_config(TEXT, environment={"KEY": KEY})
    entry = config.backends["a"]
    assert entry.options["api_key"] == KEY
    assert entry.url == f"https://user:{KEY}@example.org"
    assert entry.model_dump()["options"]["list"] == [f"Bearer {KEY}"]
    for text in (repr(config), str(config), config.model_dump_json(), repr(config.source), repr(entry.options)):
        for secret in (KEY, "literal-token", "another-secret"):
            assert secret not in text
    assert "shown" in repr(config)
    assert config.model == "smollm2-135m"
    assert "smollm2-135m" in repr(config)


def test_no_error_shows_a_secret_that_stands_in_the_wrong_place() -> None:
    error = refusal(
        """
version: 1
engine: {max_num_seqs: "${KEY}", dtype: "${KEY}", seed: ["${KEY}"]}
server: "${KEY}"
unknown: "${KEY}"
backends:
  a: {options: {}, environment: {HF_TOKEN: 4711471147}, mode: "${KEY}"}
""",
        KEY=KEY,
    )
    assert len(error.problems) == 7  # type: ignore[attr-defined]
    assert KEY not in all_of(error)
    assert "4711471147" not in str(error)
    assert "found the text of ${KEY}, which is not shown" in str(error)
    assert "what comes from the environment is always text" in str(error)


class PluginOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    api_key: str = ""
    retries: int | bool | None = None

    @field_validator("api_key")
    @classmethod
    def _quotes_what_it_refuses(cls, value: str) -> str:
        raise ValueError(f"the key {value!s} is revoked")


def test_a_plugins_own_message_is_stripped_of_the_secret_it_quotes() -> None:
    config = parse_config(TEXT, file="some.yaml", environment={"KEY": KEY})
    options = dict(config.backends["a"].options)
    with pytest.raises(ValidationError) as caught:
        PluginOptions.model_validate(options)
    path = ("backends", "a", "options")
    problems = describe(caught.value, model=PluginOptions, values=options, source=config.source, path=path)
    assert [problem.path for problem in problems] == [
        "backends.a.options.api_key",
        "backends.a.options.headers",
        "backends.a.options.list",
    ]
    assert problems[0].line == 8
    assert KEY not in " ".join(map(str, problems))


def test_a_value_that_fits_none_of_several_types_is_one_problem() -> None:
    config = parse_config("version: 1\nbackends: {a: {options: {retries: x}}}", environment={})
    options = dict(config.backends["a"].options)
    with pytest.raises(ValidationError) as caught:
        PluginOptions.model_validate(options)
    [problem] = describe(
        caught.value,
        model=PluginOptions,
        values=options,
        source=config.source,
        path=("backends", "a", "options"),
    )
    assert problem.expected == "a whole number or true or false"
    assert problem.path == "backends.a.options.retries"


@pytest.mark.parametrize("key", ["api_key", "API-KEY", "apikey", "HF_TOKEN", "token", "db_password", "client_secret"])
def test_keys_that_hold_secrets_are_known(key: str) -> None:
    assert is_secret_key(key)


@pytest.mark.parametrize("key", ["tokenizer", "max_num_batched_tokens", "keyboard", "model", "input_tokens"])
def test_keys_that_only_look_like_it_are_not(key: str) -> None:
    assert not is_secret_key(key)


def test_a_secret_is_text_in_every_use_but_repr() -> None:
    secret = Secret("abc")
    assert (secret == "abc", f"{secret}", "x" + secret, len(secret)) == (True, "abc", "xabc", 3)
    assert repr({"a": [secret]}) == "{'a': ['***']}"
    assert masked({"a": (secret, 1)}) == {"a": ["***", 1]}
    assert type(revealed([secret])[0]) is str  # type: ignore[index]


def test_arguments_from_python_are_refused_in_the_same_words_and_keep_their_secrets() -> None:
    from enginebay.plugins import get_backend

    with pytest.raises(ConfigError) as caught:
        get_backend("reference", max_num_seqs="64")
    assert str(caught.value) == "engine.max_num_seqs: found the text '64'; expected a whole number, without quotes"
    with pytest.raises(ConfigError) as caught:
        get_backend("reference", options={"api_key": KEY, "polcy": "naive"})
    assert KEY not in str(caught.value)
    assert "reference.options.polcy: unknown key. Did you mean 'policy'?" in str(caught.value)


ARGUMENTS = """version: 1
model: m
backends:
  a:
    kind: vllm
    mode: managed
    options: {executable: [env, A_TOKEN=in-the-wrapper, x, --api-key=behind-equals, --admin-key, after-the-flag]}
"""


def test_the_value_of_a_secret_flag_or_variable_in_a_command_is_masked() -> None:
    config = parse_config(ARGUMENTS, file="some.yaml", environment={})
    assert config.backends["a"].options["executable"][4] == "--admin-key"  # type: ignore[index]
    for secret in ("in-the-wrapper", "behind-equals", "after-the-flag"):
        assert secret not in repr(config) + config.model_dump_json()
        assert config.source.redact(f"a command: {secret}") == f"a command: {MASK}"


@pytest.mark.parametrize("arguments", ["[--api-key, sk-4711]", "[--api-key=sk-4711]", "[--hf_token, sk-4711]"])
def test_a_key_among_the_extra_arguments_is_refused_and_not_shown(arguments: str) -> None:
    entry = f"{{kind: vllm, mode: managed, options: {{extra_arguments: {arguments}}}}}"
    config = parse_config(f"version: 1\nmodel: m\nbackends: {{a: {entry}}}", file="some.yaml", environment={})
    with pytest.raises(ConfigError, match="every user of the machine can read a command line") as caught:
        check_backend(config, "a")
    assert caught.value.path == "backends.a.options.extra_arguments"
    assert "sk-4711" not in all_of(caught.value)


def test_flags_about_tokens_of_the_model_are_no_secrets() -> None:
    assert not any(
        map(is_secret_flag, ("--eos-token", "--tokenizer", "--max-total-tokens", "--ssl-keyfile", "--pad_token"))
    )


@pytest.mark.parametrize("key", ["pwd", "db_pass", "DB_PWD", "ssl-passphrase"])
def test_every_common_word_for_a_password_is_known(key: str) -> None:
    assert is_secret_key(key)
