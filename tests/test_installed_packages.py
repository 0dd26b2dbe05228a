"""The example package and its broken cousins, built and installed for real, found through real entry points."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.install

TESTS = Path(__file__).parent
ECHO = TESTS.parent / "docs" / "examples" / "enginebay-echo"
COUSINS = ("broken", "duplicate", "wrongly_typed", "without_hook")

ASK = """
import asyncio, json, sys
import enginebay
from enginebay.errors import EngineBayError

def answer(kind):
    try:
        with enginebay.LLM("any", backend=kind) as llm:
            return llm.generate("to be or not to be", enginebay.SamplingParams(max_tokens=4))[0].text
    except EngineBayError as error:
        return f"{type(error).__name__}: {error}"

kinds = {backend.kind: backend.distributions for backend in enginebay.list_backends()}
answers = {kind: answer(kind) for kind in sys.argv[1:]}
print(json.dumps({"kinds": kinds, "answers": answers, "home": enginebay.__file__}))
"""


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Wheels of this project, of the example and of its cousins, by what they are called here."""
    directory = tmp_path_factory.mktemp("wheels")
    sources = [TESTS.parent, ECHO, *(TESTS / "packages" / name for name in COUSINS)]
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps")
    run(*pip, "--no-build-isolation", "--no-index", "--wheel-dir", str(directory), *map(str, sources))
    by_distribution = {path.name.split("-")[0]: path for path in directory.glob("*.whl")}
    names = {"project": "enginebay", "echo": "enginebay_echo"}
    names |= {name: f"enginebay_echo_{name}" for name in COUSINS}
    return {name: by_distribution[distribution] for name, distribution in names.items()}


@pytest.fixture(scope="module")
def environment_with(tmp_path_factory, wheels):
    """A new environment with these packages in it; dependencies come from the one that runs the tests."""

    def make(*names):
        directory = tmp_path_factory.mktemp("environment")
        venv.create(directory, with_pip=False, symlinks=True)
        python = directory / "bin" / "python"
        site_packages = Path(run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", f"--python={python}", "install", "--quiet")
        run(*pip, "--no-deps", "--no-index", *(str(wheels[name]) for name in ("project", *names)))
        # After its own packages on the path, so that the project under test is the one that was installed here.
        (site_packages / "zz_dependencies.pth").write_text(f"{_dependencies(directory)}\n")
        return python

    return make


def _dependencies(directory: Path) -> Path:
    """The packages that are installed where the tests run, but for this project's own and its plugins'."""
    import pydantic

    installed, found = Path(pydantic.__file__).parent.parent, directory / "dependencies"
    found.mkdir()
    for path in installed.iterdir():
        if not path.name.lstrip("_").startswith(("enginebay", "editable_impl_enginebay")) and path.suffix != ".pth":
            (found / path.name).symlink_to(path)
    return found


def ask(python, *kinds):
    answer = json.loads(run(str(python), "-c", ASK, *kinds))
    assert Path(answer["home"]).is_relative_to(python.parent.parent), (
        "the project that was installed is the one that ran"
    )
    return answer


def test_the_example_package_is_found_and_answers(environment_with):
    answer = ask(environment_with("echo"), "echo", "ECHO")
    assert answer["kinds"]["echo"] == ["enginebay-echo"]
    assert answer["kinds"]["reference"] == ["enginebay"]
    assert answer["answers"] == {"echo": "to be or not", "ECHO": "to be or not"}


def test_each_broken_cousin_has_its_own_error_and_does_no_harm_to_the_others(environment_with):
    python = environment_with("echo", "broken", "wrongly_typed", "without_hook")
    answers = ask(python, "echo", "echo-broken", "echo_wrongly_typed", "echo_without_hook", "echo_nowhere")["answers"]
    assert answers["echo"] == "to be or not"
    assert answers["echo-broken"].startswith("BrokenPlugin")
    assert "'enginebay-echo-broken'" in answers["echo-broken"]
    assert "No module named 'an_engine_that_is_not_installed'" in answers["echo-broken"]
    assert answers["echo_wrongly_typed"].startswith("BrokenPlugin")
    assert "returned dict, expected enginebay.BackendSpec" in answers["echo_wrongly_typed"]
    assert answers["echo_without_hook"].startswith("BrokenPlugin")
    assert "marked with @enginebay.hookimpl" in answers["echo_without_hook"]
    assert answers["echo_nowhere"].startswith("BackendNotFound")


def test_two_distributions_with_one_kind_are_named_both(environment_with):
    python = environment_with("echo", "duplicate", "wrongly_typed")
    answer = ask(python, "echo", "echo_wrongly_typed")
    assert answer["kinds"]["echo"] == ["enginebay-echo", "enginebay-echo-duplicate"]
    assert answer["answers"]["echo"].startswith("DuplicateBackend")
    assert "enginebay-echo, enginebay-echo-duplicate" in answer["answers"]["echo"]
    assert answer["answers"]["echo_wrongly_typed"].startswith("BrokenPlugin")


def test_an_engine_whose_plugin_is_not_installed_names_the_package(environment_with):
    answers = ask(environment_with(), "vllm", "trtllm")["answers"]
    assert answers["vllm"].startswith("BackendNotFound")
    assert 'pip install "enginebay-vllm[engine]"' in answers["vllm"]
    assert "enginebay-tensorrt-llm" in answers["trtllm"]
