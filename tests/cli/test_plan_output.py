"""What `enginebay plan` prints, for a kind that is launched in every way."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import enginebay.plugins
from enginebay.backend import FILES, BackendContext, BackendSpec, LaunchPlan, SettingOutcome, Settings
from enginebay.backends.http_engine.options import ServerOptions
from enginebay.backends.launch import container_model_argument, docker_run, run_command
from enginebay.cli.main import run
from enginebay.hookspecs import hookimpl
from enginebay.types import Capabilities

FLAGS = {"max_num_seqs": "--batch", "dtype": "--dtype", "tokenizer": "--tokenizer", "max_model_len": "--context"}

FAULTY_VERSION = "0"


def compile_settings(settings: Settings, version: str | None) -> LaunchPlan:
    if version == FAULTY_VERSION:
        raise KeyError(version)
    outcomes: list[SettingOutcome] = []
    arguments: list[str] = []
    for name, value in settings.items():
        if name not in FLAGS:
            outcomes.append(SettingOutcome(name, value, "unsupported", why="it has no such thing"))
            continue
        is_rough = name == "max_num_seqs"
        why = "a limit of another kind" if is_rough else ""
        becomes = f"{FLAGS[name]} {value}"
        outcomes.append(SettingOutcome(name, value, "approximated" if is_rough else "mapped", becomes, why))
        arguments += [FLAGS[name], str(value)]
    return LaunchPlan(outcomes=tuple(outcomes), arguments=tuple(arguments), keywords={"rank": 1, "api_key": "k-1"})


def launch(context: BackendContext, plan: LaunchPlan) -> LaunchPlan:
    options, port = context.options, context.options.port or 8000
    if context.mode == "in_process":
        return plan
    if context.mode == "docker":
        arguments = ("--model", container_model_argument(context.model), *plan.arguments)
        command = docker_run(
            arguments,
            options=options,
            image=context.image or "acme/rocket:1.0",
            port=port,
            container_port=80,
            model=context.model,
            environment=("ROCKET_KEY",),
            shm_size="1g",
        )
        return replace(plan, command=command)
    arguments = ("--port", str(port), "--config", f"{FILES}/build.yaml", *plan.arguments)
    command = run_command(("rocket", "serve"), arguments, options=options)
    environment = {"ROCKET_KEY": "k-2", "MODE": "a b"}
    notes = ("the legacy path",)
    return replace(plan, command=command, environment=environment, files={"build.yaml": "batch: 8\n"}, notes=notes)


@pytest.fixture(autouse=True)
def rocket_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind `rocket`, beside what is installed for real."""

    def spec() -> BackendSpec:
        return BackendSpec(
            kind="rocket",
            options_model=ServerOptions,
            capabilities=lambda version, options: Capabilities(features=frozenset()),
            compile=compile_settings,
            create=lambda context: pytest.fail("nothing may be built"),
            modes=("managed", "docker", "external", "in_process"),
            version=lambda context: context.options.version or "1.0",
            launch=launch,
        )

    module = ModuleType("enginebay_rocket")
    module.enginebay_backend = hookimpl(spec)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "enginebay_rocket", module)
    fake = EntryPoint("rocket", "enginebay_rocket", "enginebay.backends")
    vars(fake).update(dist=SimpleNamespace(name="enginebay-rocket"))
    real = list(enginebay.plugins.entry_points(group="enginebay.backends"))
    monkeypatch.setattr(enginebay.plugins, "entry_points", lambda group: [*real, fake])
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("HF_HOME", "/hub")


@pytest.fixture
def plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def planned(text: str, *arguments: str) -> tuple[int, str]:
        path = tmp_path / "c.yaml"
        path.write_text(f"version: 1\nmodel: hf:acme/llm\n{text}")
        code = run(["plan", str(path), *arguments])
        return code, capsys.readouterr().out

    return planned


SETTINGS = "engine: {dtype: float16, max_num_seqs: 8}\n"

MANAGED = """\
rocket (kind rocket, mode managed)
compiled for 1.0
┏━━━━━━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━━━━━┓
┃ setting      ┃ value   ┃ becomes         ┃ outcome      ┃ why                     ┃
┡━━━━━━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━━━━━┩
│ dtype        │ float16 │ --dtype float16 │ mapped       │                         │
│ max_num_seqs │ 8       │ --batch 8       │ approximated │ a limit of another kind │
└──────────────┴─────────┴─────────────────┴──────────────┴─────────────────────────┘
executable: not found (there is no program 'rocket' on the path)
command: ROCKET_KEY=*** MODE='a b' rocket serve \\
  --port 8000 \\
  --config '{files}/build.yaml' \\
  --dtype float16 \\
  --batch 8
{files} is a folder that is made when it is launched; its files:
file {files}/build.yaml:
  batch: 8
note: the legacy path
"""


def test_one_backend_is_shown_with_table_command_files_and_notes(plan):
    assert plan(SETTINGS + "backend: rocket") == (0, MANAGED)


def test_a_kind_that_the_config_does_not_name_can_be_asked_for(plan):
    assert plan(SETTINGS, "--backend", "rocket") == (0, MANAGED)


DOCKER = """\
command: docker run \\
  --rm \\
  --gpus all \\
  --shm-size 1g \\
  -p 127.0.0.1:8080:80 \\
  -v /hub:/root/.cache/huggingface \\
  -e ROCKET_KEY \\
  acme/rocket:2.1 \\
  --model acme/llm \\
  --dtype float16 \\
  --batch 8 \\
  --extra
"""


def test_a_container_is_shown_as_the_docker_run_that_starts_it(plan):
    entry = "{kind: rocket, mode: docker, image: 'acme/rocket:2.1', options: {port: 8080, extra_arguments: [--extra]}}"
    code, out = plan(SETTINGS + f"backend: mine\nbackends:\n  mine: {entry}")
    assert code == 0
    assert out.endswith(DOCKER)


def test_the_program_of_a_virtual_environment_is_the_one_shown(plan, tmp_path: Path):
    program = tmp_path / "venv" / "bin" / "rocket"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    code, out = plan(f"backend: mine\nbackends:\n  mine: {{kind: rocket, venv: {tmp_path}/venv}}")
    assert code == 0
    assert f"executable: {program}\n" in out
    assert f"{program} serve" in out
    assert "no engine settings were given" in out


def test_a_plugin_with_a_fault_does_not_hide_the_plans_of_the_others(plan):
    entries = f"{{sound: {{kind: rocket}}, faulty: {{kind: rocket, options: {{version: '{FAULTY_VERSION}'}}}}}}"
    code, out = plan(SETTINGS + f"backend: sound\nbackends: {entries}", "--all")
    assert code == 2
    assert "sound (kind rocket, mode managed)" in out
    assert "rocket serve" in out


def test_external_and_in_process_say_what_there_is_in_place_of_a_command(plan):
    entries = "{far: {kind: rocket, mode: external, url: 'http://h:1'}, near: {kind: rocket, mode: in_process}}"
    _, out = plan(f"backends: {entries}", "--backend", "far")
    assert "command: none, the server runs already at http://h:1" in out
    _, out = plan(f"backends: {entries}", "--backend", "near")
    assert "keyword rank: 1\nkeyword api_key: ***\n" in out


BACKENDS = """backend: rocket
backends:
  rocket: {options: {executable: [other]}}
  long: {kind: rocket, engine: {dtype: float32, max_model_len: 99}}
  small: {kind: rocket, engine: {seed: 4}, allow_unsupported: [seed]}
"""


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_all_stand_side_by_side_within_the_width(plan, monkeypatch: pytest.MonkeyPatch, columns: int):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out = plan(SETTINGS + BACKENDS, "--all")
    assert code == 0
    rows = [line for line in out.splitlines() if line.startswith(("┏", "┃", "│", "└"))]
    assert max(map(len, rows)) <= columns
    headings = [[cell.strip() for cell in row.strip("┃").split("┃")] for row in rows if row.startswith("┃")]
    names = [name for heading in headings for name in heading[2:]]
    assert names == ["rocket", "long", "small"]
    assert all(heading[:2] == ["setting", "value"] for heading in headings)
    assert len(headings) == (2 if columns == 80 else 1)


def test_a_setting_that_differs_shows_each_ones_value_and_reasons_follow(plan, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "120")
    _, out = plan(SETTINGS + BACKENDS, "--all")
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines() if line[:1] == "│"]
    rows = {row[0]: row[1:] for row in cells if row[0]}
    assert rows["dtype"] == [
        "differs",
        "float16: --dtype float16",
        "float32: --dtype float32",
        "float16: --dtype float16",
    ]
    assert rows["seed"] == ["4", "not given", "not given", "unsupported, allowed"]
    assert "small, seed: unsupported, it has no such thing" in out
    assert "long, max_num_seqs: approximated, a limit of another kind" in out
    assert "other --port 8000" in out.replace(" \\\n ", "")


def test_one_that_is_not_allowed_is_an_error(plan):
    code, out = plan(SETTINGS + BACKENDS.replace(", allow_unsupported: [seed]", ""), "--all")
    assert code == 2
    assert "unsupported" in out
