"""From a config to a backend that is built: what the plugin adds to the checks of the config."""

import pytest

from enginebay.config.loader import parse_config
from enginebay.configured import check_backend, config_problems, configured_backend
from enginebay.errors import BackendNotFound, BrokenPlugin, ConfigError

pytestmark = pytest.mark.usefixtures("echo_plugin")

TEXT = """version: 1
model: top
backend: mine
engine: {dtype: float32, seed: 5}
backends:
  mine:
    kind: Echo
    mode: managed
    venv: /opt/${HOST}
    engine: {max_model_len: 128}
    options: {api_key: "${KEY}", retries: 2}
    environment: {A: "${KEY}"}
"""
ENVIRONMENT = {"KEY": "sk-4711", "HOST": "127.0.0.1"}


def refusal(text: str, name: str | None = None) -> ConfigError:
    config = parse_config(text, file="some.yaml", environment=ENVIRONMENT)
    with pytest.raises(ConfigError) as caught:
        configured_backend(config, name)
    return caught.value


def test_an_entry_becomes_a_backend_with_all_that_was_configured() -> None:
    backend = configured_backend(parse_config(TEXT, environment=ENVIRONMENT))
    context = backend.inner.context  # type: ignore[attr-defined]
    assert (backend.info.name, backend.info.kind, context.model, context.mode) == ("mine", "echo", "top", "managed")
    assert dict(context.settings) == {"dtype": "float32", "seed": 5, "max_model_len": 128}
    assert (context.options.api_key, context.options.retries) == ("sk-4711", 2)
    assert (context.venv, context.environment, context.seed) == ("/opt/127.0.0.1", {"A": "sk-4711"}, 5)
    # codecs such as msgspec take no subclass of str
    assert {type(context.venv), type(context.environment["A"]), type(context.options.api_key)} == {str}


def test_a_bare_kind_needs_no_entry() -> None:
    backend = configured_backend(parse_config("version: 1\nbackend: ECHO\nmodel: m"))
    assert (backend.info.name, backend.info.model) == ("ECHO", "m")


def test_a_wrong_option_is_told_with_file_path_line_and_the_nearest_known_one() -> None:
    error = refusal(TEXT.replace("retries: 2", "retires: 2"))
    assert (error.file, error.line, error.path) == ("some.yaml", 11, "backends.mine.options.retires")
    assert error.suggestion == "retries"
    error = refusal(TEXT.replace("retries: 2", "retries: '${KEY}'"))
    assert "sk-4711" not in str(error)
    assert error.expected == "a whole number; what comes from the environment is always text"


def test_a_name_that_is_neither_entry_nor_kind_is_refused_with_the_nearest_one() -> None:
    error = refusal("version: 1\nbackend: refrence")
    assert (error.line, error.path, error.suggestion) == (2, "backend", "reference")
    error = refusal(TEXT, "mime")
    assert (error.path, error.suggestion) == (None, "mine")


def test_an_entry_whose_kind_is_unknown_is_refused_where_it_stands() -> None:
    error = refusal("version: 1\nbackend: a\nbackends:\n  a: {kind: ecko}")
    assert (error.line, error.path, error.suggestion) == (4, "backends.a.kind", "echo")
    error = refusal("version: 1\nbackend: fast\nbackends:\n  fast: {}")
    assert (error.line, error.path) == (4, "backends.fast")
    assert "give the entry a `kind`" in str(error)


def test_a_kind_that_is_known_but_absent_says_what_to_install() -> None:
    with pytest.raises(BackendNotFound, match=r'pip install "enginebay-vllm\[engine\]"'):
        configured_backend(parse_config("version: 1\nbackend: vllm"))
    with pytest.raises(BrokenPlugin, match="enginebay_no_such_module"):
        configured_backend(parse_config("version: 1\nbackend: broken"))


def test_a_mode_that_the_kind_does_not_have_is_refused() -> None:
    error = refusal(TEXT.replace("managed", "docker"))
    assert (error.line, error.path, error.expected) == (8, "backends.mine.mode", "external or managed")


def test_more_than_one_replica_is_refused_where_one_engine_is_built() -> None:
    assert refusal(TEXT.replace("mode: managed", "mode: managed\n    replicas: 2")).path == "backends.mine.replicas"


def test_a_setting_that_the_kind_cannot_honour_is_an_error_unless_it_is_allowed_by_name() -> None:
    given = TEXT.replace("dtype: float32", "dtype: float32, max_num_seqs: 4")
    error = refusal(given)
    assert (error.line, error.path) == (4, "engine.max_num_seqs")
    assert "echoes have no batches" in str(error)
    own = TEXT.replace("max_model_len: 128", "max_num_seqs: 4")
    assert refusal(own).path == "backends.mine.engine.max_num_seqs"
    allowed = given.replace("mode: managed", "mode: managed\n    allow_unsupported: [max_num_seqs]")
    backend = configured_backend(parse_config(allowed, environment=ENVIRONMENT))
    assert "max_num_seqs" not in backend.inner.context.settings  # type: ignore[attr-defined]
    unset = given.replace("max_model_len: 128", "max_num_seqs: null")
    assert configured_backend(parse_config(unset, environment=ENVIRONMENT)).info.name == "mine"


def test_checking_a_config_finds_the_problems_of_every_entry() -> None:
    config = parse_config(
        "version: 1\nbackend: a\nbackends:\n"
        "  a: {kind: echo, options: {x: 1, y: 2}}\n  b: {kind: echo, engine: {max_num_seqs: 1}}\n  c: {kind: vllm}\n"
        "  d: {kind: echo}",
        file="some.yaml",
    )
    problems = config_problems(config)
    assert [type(problem).__name__ for problem in problems] == ["ConfigError"] * 3 + ["BackendNotFound"]
    assert check_backend(config, "d").options.retries == 0


def test_what_a_plugin_refuses_when_it_builds_is_told_with_its_place_in_the_file() -> None:
    error = refusal("version: 1\nbackend: far\nbackends:\n  far:\n    kind: openai_http")
    assert (error.file, error.line, error.path) == ("some.yaml", 4, "backends.far.url")
    assert "needs the address of its server" in error.problem
    assert (refusal("version: 1\nbackend: openai_http").line, error.expected) == (2, "http://...")


@pytest.mark.parametrize(
    ("entry", "key", "words"),
    [
        ("kind: reference\n    url: http://x", "url", "with kind: openai_http"),
        ("kind: reference\n    venv: .venv", "venv", "leave it out"),
        ("kind: reference\n    image: ''", "image", "leave it out"),
        ("kind: openai_http\n    environment: {A: b}", "environment", "'external' has no use for this"),
        ("kind: openai_http\n    image: some:1", "image", "'external' has no use for this"),
        ("kind: echo\n    venv: .venv", "venv", "or set the mode to managed"),
        ("kind: openai_http\n    url: ftp://x", "url", "'ftp://x' is no URL of a server"),
        ("kind: openai_http\n    url: not a url", "url", "'not a url' is no URL of a server"),
    ],
)
def test_an_address_or_a_place_that_the_backend_would_not_use_is_refused(entry: str, key: str, words: str) -> None:
    text = f"version: 1\nbackend: mine\nbackends:\n  mine:\n    {entry}"
    error = refusal(text)
    assert (error.file, error.line, error.path) == ("some.yaml", 6, f"backends.mine.{key}")
    assert words in error.problem
    [problem] = config_problems(parse_config(text, file="some.yaml"))
    assert str(problem) == str(error)


def test_the_reference_engine_has_a_process_that_takes_an_environment() -> None:
    text = "version: 1\nbackend: mine\nbackends:\n  mine: {kind: reference, environment: {A: b}}"
    assert dict(check_backend(parse_config(text)).context.environment) == {"A": "b"}


def test_checking_a_config_finds_a_server_without_an_address_and_tells_no_secret() -> None:
    text = "version: 1\nbackend: far\nbackends:\n  far: {kind: openai_http, url: '${ADDRESS:-}'}"
    [problem] = config_problems(parse_config(text, file="some.yaml", environment={}))
    assert "needs the address of its server" in str(problem)
    [problem] = config_problems(parse_config(text, file="some.yaml", environment={"ADDRESS": "ftp://hidden/v1"}))
    assert "hidden" not in str(problem)


def test_every_place_that_is_not_used_is_told_at_once() -> None:
    text = "version: 1\nbackend: a\nbackends:\n  a: {kind: openai_http, url: 'http://x', image: i, venv: v}"
    problems = config_problems(parse_config(text))
    assert [getattr(problem, "path", None) for problem in problems] == ["backends.a.image", "backends.a.venv"]
