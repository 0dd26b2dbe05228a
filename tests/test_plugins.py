import asyncio
import dataclasses
from importlib.metadata import EntryPoint

import pytest
from pydantic import BaseModel, ConfigDict

import enginebay
from enginebay import BackendSpec, hookimpl
from enginebay.backend import LaunchPlan
from enginebay.errors import BackendNotFound, BrokenPlugin, ConfigError, DuplicateBackend
from enginebay.plugins import DEFAULT_MODEL, canonical_kind, find_backend, get_backend, list_backends
from enginebay.types import Capabilities
from installed_plugins import entry_point, install, install_echo, module_of


class NoOptions(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    pace: int = 1


class Built:
    """As little of a backend as `create` may return; it keeps what it was given."""

    info = None
    start = generate = health = stats = aclose = lambda self: None

    def __init__(self, context):
        self.context = context


def spec(kind, *, create=Built):
    return BackendSpec(
        kind=kind,
        options_model=NoOptions,
        capabilities=lambda version, options: Capabilities(features=frozenset()),
        compile=lambda settings, version: LaunchPlan(outcomes=()),
        create=create,
        modes=("in_process", "external"),
    )


def plugin(monkeypatch, name, answer):
    """A module whose hook gives `answer`."""

    @hookimpl
    def enginebay_backend():
        return answer

    return module_of(monkeypatch, name, enginebay_backend=enginebay_backend)


def install_kind(monkeypatch, kind, **spec_fields):
    module = plugin(monkeypatch, f"{kind}_module", spec(kind, **spec_fields))
    install(monkeypatch, entry_point(kind, module=module, distribution=f"enginebay-{kind}"))


def context_of(backend):
    """What `create` was given."""
    return backend.inner.context


# ---------------------------------------------------------------- which plugin


@pytest.mark.parametrize("kind", ["llama_cpp", "llama-cpp", "Llama-CPP", " LLAMA_CPP ", "llamacpp"])
def test_case_and_dashes_of_a_kind_do_not_matter(monkeypatch, kind):
    install_kind(monkeypatch, "llama_cpp")
    assert find_backend(kind).kind == "llama_cpp"


def test_an_entry_point_may_spell_its_kind_in_any_way(monkeypatch):
    module = plugin(monkeypatch, "any_way", spec("My-Engine"))
    install(monkeypatch, entry_point("my_ENGINE", module=module, distribution="mine"))
    assert find_backend("my-engine").kind == "My-Engine"
    assert [backend.kind for backend in list_backends()] == ["my_engine"]


def test_trtllm_is_another_name_of_tensorrt_llm(monkeypatch):
    assert canonical_kind("TRTLLM") == "tensorrt_llm"
    install_kind(monkeypatch, "tensorrt_llm")
    assert find_backend("trtllm").kind == "tensorrt_llm"


@pytest.mark.parametrize(
    ("kind", "package"),
    [
        ("vllm", "enginebay-vllm[engine]"),
        ("trtllm", "enginebay-tensorrt-llm[engine]"),
        ("tensorrtllm", "enginebay-tensorrt-llm[engine]"),
        ("TensorRT-LLM", "enginebay-tensorrt-llm[engine]"),
        ("llama.cpp", "enginebay-llama-cpp"),
        ("llamacpp", "enginebay-llama-cpp"),
        ("TGI", "enginebay-tgi"),
        ("text-generation-inference", "enginebay-tgi"),
    ],
)
def test_a_known_engine_that_is_absent_names_the_package_to_install(monkeypatch, kind, package):
    install_echo(monkeypatch)
    with pytest.raises(BackendNotFound) as caught:
        get_backend(kind)
    assert f'pip install "{package}"' in str(caught.value)  # zsh expands brackets that are not quoted
    assert "installed: echo" in str(caught.value)


def test_an_unknown_kind_lists_what_is_installed_and_the_nearest_name(monkeypatch):
    install_echo(monkeypatch)
    with pytest.raises(BackendNotFound, match=r"installed: echo.*Did you mean 'echo'\?"):
        get_backend("ehco")
    install(monkeypatch)
    with pytest.raises(BackendNotFound, match="installed: none"):
        get_backend("zzz")


def test_a_name_close_to_an_engine_that_is_not_installed_says_which(monkeypatch):
    install_echo(monkeypatch)
    with pytest.raises(BackendNotFound, match=r"Did you mean 'vllm'\?"):
        get_backend("vlm")


def test_the_built_in_backends_enter_by_the_same_door():
    installed = {backend.kind: backend.distributions for backend in list_backends()}
    assert installed["reference"] == ("enginebay",)
    assert installed["openai_http"] == ("enginebay",)
    assert find_backend("Reference").kind == "reference"


def test_listing_imports_no_plugin(monkeypatch):
    install(monkeypatch, entry_point("broken", module="no_such_module", distribution="broken-dist"))
    assert [(backend.kind, backend.distributions) for backend in list_backends()] == [("broken", ("broken-dist",))]


def test_an_entry_point_without_a_distribution_is_still_found(monkeypatch):
    module = plugin(monkeypatch, "homeless", spec("homeless"))
    install(monkeypatch, EntryPoint(name="homeless", value=module, group="enginebay.backends"))
    assert find_backend("homeless").kind == "homeless"


# ---------------------------------------------------------------- plugins that can't be used


def broken(monkeypatch, module):
    install(
        monkeypatch,
        entry_point("mine", module=module, distribution="their-dist"),
        entry_point("good", module=plugin(monkeypatch, "good_module", spec("good")), distribution="good-dist"),
    )
    with pytest.raises(BrokenPlugin) as caught:
        find_backend("mine")
    assert find_backend("good").kind == "good", "a broken neighbour does no harm"
    assert "'mine'" in str(caught.value)
    assert "'their-dist'" in str(caught.value)
    return str(caught.value)


def test_a_plugin_that_cannot_be_imported_says_why(monkeypatch):
    assert "No module named 'no_such_module'" in broken(monkeypatch, "no_such_module")


def test_an_entry_point_to_a_name_that_is_not_there_is_broken(monkeypatch):
    module = plugin(monkeypatch, "has_no_such_name", spec("mine"))
    assert "cannot be imported" in broken(monkeypatch, f"{module}:nothing")


def test_a_module_that_exits_when_it_is_imported_does_not_end_the_program(monkeypatch, tmp_path):
    (tmp_path / "exits_on_import.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "SystemExit" in broken(monkeypatch, "exits_on_import")


def test_a_hook_that_returns_something_else_is_broken(monkeypatch):
    assert "returned dict" in broken(monkeypatch, plugin(monkeypatch, "wrong", {"kind": "mine"}))


def test_a_hook_that_returns_nothing_is_broken(monkeypatch):
    assert "returned NoneType" in broken(monkeypatch, plugin(monkeypatch, "nothing", None))


def test_a_hook_without_the_mark_is_broken(monkeypatch):
    module = module_of(monkeypatch, "unmarked", enginebay_backend=lambda: spec("mine"))
    assert "marked with @enginebay.hookimpl" in broken(monkeypatch, module)


def test_a_hook_with_a_misspelt_name_is_broken(monkeypatch):
    @hookimpl
    def enginebay_backends():
        return spec("mine")

    message = broken(monkeypatch, module_of(monkeypatch, "misspelt", enginebay_backends=enginebay_backends))
    assert "enginebay_backends" in message


def test_a_hook_that_raises_is_broken(monkeypatch):
    @hookimpl
    def enginebay_backend():
        raise RuntimeError("no GPU driver")

    message = broken(monkeypatch, module_of(monkeypatch, "raising", enginebay_backend=enginebay_backend))
    assert "RuntimeError: no GPU driver" in message


def test_an_entry_point_whose_plugin_offers_another_kind_is_broken(monkeypatch):
    assert "offers the kind 'other'" in broken(monkeypatch, plugin(monkeypatch, "other_kind", spec("other")))


def test_two_distributions_with_one_kind_are_an_error_that_names_both(monkeypatch):
    module = plugin(monkeypatch, "twice", spec("twice"))
    install(
        monkeypatch,
        entry_point("twice", module=module, distribution="dist-b"),
        entry_point("Twice", module=module, distribution="dist-a"),
    )
    with pytest.raises(DuplicateBackend, match="dist-a, dist-b"):
        get_backend("twice")
    [listed] = list_backends()
    assert listed.distributions == ("dist-a", "dist-b")


def test_two_plugins_of_one_distribution_with_one_kind_are_an_error_too(monkeypatch):
    first, second = (plugin(monkeypatch, name, spec("twice")) for name in ("first", "second"))
    install(
        monkeypatch,
        entry_point("twice", module=first, distribution="one"),
        entry_point("Twice", module=second, distribution="one"),
    )
    with pytest.raises(DuplicateBackend, match="one:first, one:second"):
        get_backend("twice")


def test_one_distribution_seen_twice_on_the_path_is_no_duplicate(monkeypatch):
    module = plugin(monkeypatch, "seen_twice", spec("seen"))
    install(monkeypatch, *(entry_point("seen", module=module, distribution="one") for _ in range(2)))
    assert find_backend("seen").kind == "seen"


# ---------------------------------------------------------------- what the plugin is given


def test_the_model_is_the_argument_then_the_variable_then_the_embedded_default(monkeypatch):
    install_kind(monkeypatch, "mine")
    monkeypatch.delenv("ENGINEBAY_MODEL", raising=False)
    assert context_of(get_backend("mine")).model == DEFAULT_MODEL
    monkeypatch.setenv("ENGINEBAY_MODEL", "hf:some/model")
    assert context_of(get_backend("mine")).model == "hf:some/model"
    assert context_of(get_backend("mine", model="other")).model == "other"


def test_keywords_are_sorted_into_engine_settings_and_options(monkeypatch):
    install_kind(monkeypatch, "mine")
    context = context_of(get_backend("mine", max_num_seqs=4, pace=9, options={}, engine={"dtype": "float32"}))
    assert dict(context.settings) == {"max_num_seqs": 4, "dtype": "float32"}
    assert context.options == NoOptions(pace=9)
    assert (context.name, context.seed, context.mode) == ("mine", 0, None)


def test_an_unknown_keyword_names_the_nearest_one(monkeypatch):
    install_kind(monkeypatch, "mine")
    with pytest.raises(ConfigError, match=r"max_num_seq: unknown setting.*Did you mean 'max_num_seqs'\?"):
        get_backend("mine", max_num_seq=4)
    with pytest.raises(ConfigError, match=r"Did you mean 'pace'\?"):
        get_backend("mine", pase=4)


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"max_num_seqs": 0}, "engine.max_num_seqs"),
        ({"max_num_seqs": "8"}, "engine.max_num_seqs"),
        ({"dtype": "int3"}, "engine.dtype"),
        ({"engine": {"dtypo": "float32"}}, "engine.dtypo"),
        ({"pace": "fast"}, "mine.options.pace"),
        ({"options": {"paces": 1}}, "mine.options.paces"),
        ({"mode": "docker"}, "mode"),
        ({"url": "http://x"}, "url"),
        ({"venv": ".venv"}, "venv"),
        ({"mode": "external", "image": "some:1"}, "image"),
        ({"mode": "external", "environment": {"A": "b"}}, "environment"),
    ],
)
def test_a_wrong_value_names_its_place(monkeypatch, arguments, path):
    install_kind(monkeypatch, "mine")
    with pytest.raises(ConfigError) as caught:
        get_backend("mine", **arguments)
    assert caught.value.path == path


def test_a_plugin_that_builds_something_else_than_a_backend_is_broken(monkeypatch):
    install_kind(monkeypatch, "mine", create=lambda context: {"kind": "mine"})
    with pytest.raises(BrokenPlugin, match=r"'enginebay-mine'.*create\(\) returned dict"):
        get_backend("mine")


def test_a_foreign_error_while_building_is_wrapped_and_a_typed_one_is_not(monkeypatch):
    def raising(error):
        def create(context):
            raise error

        return create

    install_kind(monkeypatch, "mine", create=raising(OSError("no device")))
    with pytest.raises(BrokenPlugin, match=r"create\(\) failed: OSError: no device") as caught:
        get_backend("mine")
    assert isinstance(caught.value.__cause__, OSError)
    install_kind(monkeypatch, "mine", create=raising(ConfigError("no url", path="url")))
    with pytest.raises(ConfigError, match="no url"):
        get_backend("mine")


@pytest.mark.parametrize("function", ["version", "compile", "launch", "check"])
def test_a_foreign_error_of_any_function_of_a_plugin_is_wrapped_with_its_name(monkeypatch, function):
    def faulty(*arguments):
        return {}["no such rule"]

    wrong = dataclasses.replace(spec("mine"), **{function: faulty})
    install(monkeypatch, entry_point("mine", module=plugin(monkeypatch, "wrong", wrong), distribution="mine"))
    with pytest.raises(BrokenPlugin, match=rf"{function}\(\) failed: KeyError: 'no such rule'") as caught:
        get_backend("mine")
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_mode_that_the_plugin_has_is_handed_on(monkeypatch):
    install_kind(monkeypatch, "mine")
    assert context_of(get_backend("mine", mode="external")).mode == "external"


def test_a_backend_in_process_takes_a_venv_where_it_launches_another_interpreter(monkeypatch):
    wide = dataclasses.replace(spec("mine"), in_process_takes=("venv", "environment"))
    install(monkeypatch, entry_point("mine", module=plugin(monkeypatch, "wide", wide), distribution="mine"))
    assert context_of(get_backend("mine", venv=".venv", environment={"A": "b"})).venv == ".venv"
    with pytest.raises(ConfigError, match="url"):
        get_backend("mine", venv=".venv", url="http://x")


def test_what_a_plugin_checks_is_checked_before_it_builds(monkeypatch):
    def check(context):
        raise error

    strict = dataclasses.replace(spec("mine"), check=check)
    install(monkeypatch, entry_point("mine", module=plugin(monkeypatch, "strict", strict), distribution="mine-dist"))
    error = ConfigError("no such place", path="url")
    with pytest.raises(ConfigError, match="no such place"):
        get_backend("mine")
    error = OSError("no device")
    with pytest.raises(BrokenPlugin, match=r"check\(\) failed: OSError: no device"):
        get_backend("mine")


def test_the_example_package_answers(monkeypatch):
    install_echo(monkeypatch)

    async def main():
        async with enginebay.get_backend("Echo") as backend:
            request = enginebay.GenerationRequest(
                request_id="1", prompt=enginebay.Text("to be or"), sampling=enginebay.SamplingParams(max_tokens=2)
            )
            return [chunk async for chunk in backend.generate(request)]

    chunks = asyncio.run(main())
    assert "".join(chunk.text for chunk in chunks) == "to be"
    assert chunks[-1].finish_reason is enginebay.FinishReason.LENGTH
