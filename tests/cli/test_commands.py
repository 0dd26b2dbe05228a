"""Every command, run as a user would, and what becomes of its errors."""

import json
import os
import signal
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from enginebay.cli.init import config_text
from enginebay.cli.machine import Machine, this_machine
from enginebay.cli.main import _COMMANDS, _GROUPS, run
from enginebay.config.loader import load_config, parse_config
from enginebay.hookspecs import ENTRY_POINT_GROUP

ROOT = Path(__file__).parents[2]
ECHO = "version: 1\nmodel: m\nbackend: a\nengine: {seed: 3}\nbackends: {a: {kind: echo}}\n"


def enginebay(*tokens: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "enginebay.cli", *tokens],
        capture_output=True,
        text=True,
        input=stdin,
        timeout=60,
        check=False,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


@pytest.fixture
def written(tmp_path: Path):
    def write(text: str) -> str:
        path = tmp_path / "some.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_help_names_every_command_and_imports_none_of_them() -> None:
    script = (
        "import sys\nfrom enginebay.cli.main import run\ncode = run(['--help'])\n"
        "heavy = {'torch', 'pydantic', 'starlette', 'uvicorn', 'plotly', 'ruamel.yaml', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for name in (*_COMMANDS, *_GROUPS):
        assert f"│ {name} " in done.stdout


@pytest.mark.parametrize(
    "tokens",
    [[name] for name in _COMMANDS] + [[group, name] for group in _GROUPS for name in _GROUPS[group][1]],
    ids=" ".join,
)
def test_every_command_exists_and_explains_each_of_its_parameters(
    tokens: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*tokens, "--help"]) == 0
    assert f"Usage: enginebay {' '.join(tokens)}" in capsys.readouterr().out


def test_the_version_is_printed() -> None:
    import enginebay as package

    assert enginebay("--version").stdout.strip() == package.__version__


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["serv"], "there is no command 'serv'. Did you mean 'serve'?"),
        (["zzz"], "Known: backends, bench, compare"),
        (["config", "chema"], "there is no command 'config chema'. Did you mean 'schema'?"),
        (["plan"], "requires an argument"),
        (["plan", "x.yaml", "--bakend", "a"], "--bakend"),
        (["plan", "gone.yaml"], "gone.yaml: cannot be read: No such file or directory"),
        (["plan", "configs/swap.yaml", "--backend", "a", "--all"], "exclude each other"),
        (["generate", "configs/serve-reference.yaml", "x", "--max-tokens", "many"], "max-tokens"),
        (["config", "validate"], "requires an argument"),
        (["serve", "configs/serve-reference.yaml", "--port", "99999"], "server.port: found the number 99999"),
        (["serve", "configs/serve-reference.yaml", "--port", "-1"], "expected a number of at least 0"),
    ],
)
def test_wrong_usage_gives_exit_code_2_one_message_and_no_traceback(
    tokens: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tokens) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_an_error_prints_its_message_alone_and_verbose_adds_the_traceback() -> None:
    quiet = enginebay("plan", "gone.yaml")
    assert (quiet.returncode, quiet.stderr) == (2, "error: gone.yaml: cannot be read: No such file or directory\n")
    loud = enginebay("plan", "gone.yaml", "--verbose")
    assert "Traceback" in loud.stderr
    assert "FileNotFoundError" in loud.stderr


def test_a_command_whose_extra_is_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "enginebay.cli.serve", raising=False)
    assert run(["serve", "x.yaml"]) == 2
    assert "pip install 'enginebay[gateway]'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["config schema", "backends", "--help"])
def test_a_reader_that_goes_away_early_is_no_error(command: str) -> None:
    script = f"{sys.executable} -m enginebay.cli {command} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode in (0, 141)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


# ---------------------------------------------------------------- config


def test_validate_accepts_every_shipped_config() -> None:
    files = [str(path) for path in sorted(ROOT.glob("configs/**/*.yaml"))]
    done = enginebay("config", "validate", *files, ENGINE_API_KEY="sk-4711-secret")
    assert (done.returncode, done.stderr.count("error:")) == (0, 0)
    assert len(done.stdout.splitlines()) == len(files)
    assert "4711" not in done.stdout + done.stderr


def test_validate_reports_every_problem_of_every_file(written, capsys: pytest.CaptureFixture[str]) -> None:
    path = written("version: 1\nengine: {max_num_seq: 1}\nbackends: {reference: {options: {polcy: naive}}}")
    assert run(["config", "validate", path, "configs/gone.yaml"]) == 2
    stderr = capsys.readouterr().err
    assert f"error: {path}:2: engine.max_num_seq: unknown key. Did you mean 'max_num_seqs'?" in stderr
    assert "gone.yaml: cannot be read" in stderr


def test_validate_checks_the_options_with_the_plugin(written, capsys: pytest.CaptureFixture[str]) -> None:
    path = written("version: 1\nbackends:\n  reference:\n    options: {polcy: naive}")
    assert run(["config", "validate", path]) == 2
    assert (
        f"error: {path}:4: backends.reference.options.polcy: unknown key. Did you mean 'policy'?"
        in capsys.readouterr().err
    )


def test_validate_notes_an_engine_that_is_not_installed_and_may_insist_on_it(
    written, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    built_in = [entry for entry in entry_points(group=ENTRY_POINT_GROUP) if entry.name == "reference"]
    monkeypatch.setattr("enginebay.plugins.entry_points", lambda group: built_in)
    path = written("version: 1\nbackends: {tensorrt_llm: {}}")
    assert run(["config", "validate", path]) == 0
    assert 'pip install "enginebay-tensorrt-llm[engine]"' in capsys.readouterr().err
    assert run(["config", "validate", path, "--require-installed"]) == 2


@pytest.fixture(scope="module")
def schema() -> dict:
    done = enginebay("config", "schema")
    assert done.returncode == 0
    return json.loads(done.stdout)


def test_the_schema_is_sound_and_accepts_every_shipped_config(schema: dict) -> None:
    Draft202012Validator.check_schema(schema)
    for path in sorted(ROOT.glob("configs/**/*.yaml")):
        assert list(Draft202012Validator(schema).iter_errors(YAML(typ="safe").load(path))) == []


@pytest.mark.parametrize(
    "config",
    [
        {"version": 2},
        {"version": 1, "modle": "x"},
        {"version": 1, "engine": {"max_num_seqs": 0}},
        {"version": 1, "engine": {"dtype": "bf16"}},
        {"version": 1, "bench": {"users": []}},
        {"version": 1, "backends": {"a": {"mode": "dokcer"}}},
        {"version": 1, "backends": {"a": {"kind": "reference", "options": {"policy": "fastest"}}}},
        {"version": 1, "backends": {"reference": {"options": {"polcy": "naive"}}}},
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(schema: dict, config: dict) -> None:
    assert list(Draft202012Validator(schema).iter_errors(config))


def test_every_key_of_the_schema_has_a_description(schema: dict) -> None:
    models = [schema, *schema["$defs"].values()]
    silent = [
        key for model in models for key, value in model.get("properties", {}).items() if not value.get("description")
    ]
    assert silent == []


def test_the_schema_can_be_written_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "schema", "--out", str(tmp_path / "schema.json")]) == 0
    assert json.loads((tmp_path / "schema.json").read_text())["$schema"].endswith("2020-12/schema")
    assert run(["config", "schema", "--out", str(tmp_path / "no" / "schema.json")]) == 2


# ---------------------------------------------------------------- init


def test_init_writes_a_config_that_validates_and_replaces_none_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    assert run(["init", str(path)]) == 0
    assert run(["config", "validate", str(path), "--require-installed"]) == 0
    assert load_config(path).backend == "reference"
    path.write_text("mine")
    assert run(["init", str(path)]) == 2
    assert path.read_text() == "mine"
    assert run(["init", str(path), "--force"]) == 0
    assert path.read_text() != "mine"


def test_init_takes_what_the_machine_has() -> None:
    with_gpu = Machine(num_cores=8, memory_bytes=2**35, available_memory_bytes=2**34, gpus=("H100, 81559 MiB",))
    text = config_text("some.yaml", with_gpu, usable=("openai_http", "reference", "vllm"))
    config = parse_config(text)
    assert (config.backend, config.engine.max_num_seqs) == ("vllm", 64)
    assert "1 GPU(s)" in text
    without = Machine(num_cores=1.5, memory_bytes=2**33, available_memory_bytes=2**32, gpus=())
    assert parse_config(config_text("some.yaml", without, usable=("reference", "vllm"))).backend == "reference"


def test_the_commented_lines_of_init_are_valid_when_they_are_uncommented() -> None:
    text = config_text("some.yaml", this_machine(), usable=("reference",))
    lines = [line.replace("# ", "", 1) if line.startswith("  # ") else line for line in text.splitlines()]
    config = parse_config("\n".join(lines), environment={"API_KEY": "x"})
    assert config.backends["running-server"].kind == "openai_http"
    assert config.engine.dtype == "bfloat16"


# ---------------------------------------------------------------- generate, plan, backends, doctor


@pytest.mark.usefixtures("echo_plugin")
def test_generate_streams_the_text_and_keeps_counts_apart(written, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", written(ECHO), "hello", "--seed", "7"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "chat:hello m seed=7\n"
    assert captured.err.startswith("2 prompt tokens, 3 output tokens; first token after ")
    assert run(["generate", written(ECHO), "hello", "--no-chat", "--backend", "echo"]) == 0
    assert capsys.readouterr().out == "hello m seed=None\n"


@pytest.mark.usefixtures("echo_plugin")
def test_generate_reads_a_prompt_from_standard_input(
    written, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from io import StringIO

    monkeypatch.setattr("sys.stdin", StringIO("from a pipe"))
    assert run(["generate", written(ECHO), "-", "--no-chat"]) == 0
    assert capsys.readouterr().out.startswith("from a pipe m")


@pytest.mark.usefixtures("echo_plugin")
def test_what_fails_at_work_gives_exit_code_1(written, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(ECHO.replace("{kind: echo}", "{kind: echo, options: {fails: true}}"))
    assert run(["generate", path, "hello"]) == 1
    assert capsys.readouterr().err == "error: the engine did not start\nlikely cause: it was told to fail\n"


@pytest.mark.usefixtures("echo_plugin")
def test_a_value_that_no_request_may_have_is_wrong_usage(written, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", written(ECHO), "hello", "--temperature", "-1"]) == 2
    assert "temperature must be at least 0" in capsys.readouterr().err


@pytest.mark.usefixtures("echo_plugin")
def test_ctrl_c_gives_exit_code_130(written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fake_plugins.EchoBackend.start", _interrupted)
    assert run(["generate", written(ECHO), "hello"]) == 130


async def _interrupted(self: object) -> None:
    signal.raise_signal(signal.SIGINT)
    import asyncio

    await asyncio.Event().wait()


@pytest.mark.usefixtures("echo_plugin")
def test_plan_shows_each_setting_and_the_command_without_secrets(
    written, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACE", "very/secret/place")
    monkeypatch.setenv("COLUMNS", "200")
    path = written(ECHO.replace("seed: 3", "dtype: float32, tokenizer: '${PLACE}'"))
    assert run(["plan", path]) == 0
    out = capsys.readouterr().out
    assert "│ dtype     │ float32 │ --dtype float32 │ mapped  │" in out
    assert "command: ECHO_TOKEN=*** THREADS=2 echo-server --tokenizer=*** --dtype=float32" in out
    assert "secret" not in out


@pytest.mark.usefixtures("echo_plugin")
def test_plan_says_what_is_unsupported_and_exits_with_2_unless_it_is_allowed(
    written, capsys: pytest.CaptureFixture[str]
) -> None:
    text = ECHO.replace("seed: 3", "max_num_seqs: 3")
    assert run(["plan", written(text)]) == 2
    assert "unsupported" in capsys.readouterr().out
    assert run(["plan", written(text.replace("echo}", "echo, allow_unsupported: [max_num_seqs]}"))]) == 0
    assert "unsupported, allowed" in capsys.readouterr().out.replace("\n", " ")


def test_plan_of_all_shows_every_entry_and_reports_those_that_are_not_installed() -> None:
    done = enginebay("plan", "configs/swap.yaml", "--all")
    for name in ("reference", "one-at-a-time", "precise"):
        assert f"{name} (kind reference, mode in_process)" in done.stdout
    assert "float32" in done.stdout


@pytest.mark.usefixtures("echo_plugin")
def test_backends_shows_a_broken_one_with_its_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "220")
    assert run(["backends"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    [echo] = [row for row in rows if row.startswith("│ echo ")]
    [broken] = [row for row in rows if row.startswith("│ broken ")]
    assert [cell.strip() for cell in echo.strip("│").split("│")] == [
        "echo",
        "enginebay-echo",
        "external, managed",
        "only a test",
    ]
    assert "enginebay_no_such_module cannot be imported" in broken


def test_doctor_names_what_is_there_and_finds_a_wrong_config(written, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", written("version: 1\nserver: {port: 0}\nbackends: {reference: {options: {x: 1}}}")]) == 1
    out = capsys.readouterr().out
    for words in ("enginebay ", "cores", "of memory", "torch", "free for models", "backends.reference.options.x"):
        assert words in out
    assert run(["doctor", written("version: 1\nsever: 1")]) == 1
    assert "Did you mean 'server'?" in capsys.readouterr().out


def test_doctor_says_when_the_port_is_taken(written, capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        run(["doctor", written(f"version: 1\nserver: {{port: {port}}}")])
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in capsys.readouterr().out


def test_doctor_says_where_models_have_no_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ENGINEBAY_HOME", "~nobody-here/models")
    assert run(["doctor"]) == 1
    assert "bad   ENGINEBAY_HOME is ~nobody-here/models, but there is no such home" in capsys.readouterr().out


def test_validate_plan_and_doctor_find_an_address_that_serve_would_refuse(
    written, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written("version: 1\nbackend: reference\nbackends:\n  far:\n    kind: openai_http\n    url: ftp://x\n")
    words = f"error: {path}:6: backends.far.url: 'ftp://x' is no URL of a server"
    assert run(["config", "validate", path]) == 2
    assert words in capsys.readouterr().err
    assert run(["plan", path, "--all"]) == 2
    captured = capsys.readouterr()
    assert f"error: far: {words.removeprefix('error: ')}" in captured.err
    assert "reference (kind reference, mode in_process)" in captured.out
    assert run(["doctor", path]) == 1


@pytest.mark.parametrize(
    "tokens",
    [
        ["models", "pull", "nosuch"],
        ["models", "pull", "hf:"],
        ["compare", "nope", "nope"],
        ["compare", "pyproject.toml", "pyproject.toml"],
    ],
    ids=" ".join,
)
def test_a_name_or_a_file_that_is_none_is_wrong_usage(tokens: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tokens) == 2
    assert tokens[-1] in capsys.readouterr().err


@pytest.mark.parametrize("command", ["serve", "generate"])
def test_a_config_with_an_unknown_model_is_wrong_usage(command: str, written) -> None:
    path = written("version: 1\nmodel: nosuch\nserver: {port: 0}\n")
    done = enginebay(command, path, *(["hello"] if command == "generate" else []))
    assert done.returncode == 2
    assert "no model is called 'nosuch'" in done.stderr


def test_the_exit_codes_are_told_by_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    run(["--help"])
    assert "3 invalid, or no verdict" in " ".join(capsys.readouterr().out.split())
