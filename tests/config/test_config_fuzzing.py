"""Whatever a file holds, it becomes a config or a ConfigError, and a planted secret is never told."""

from collections.abc import Mapping
from io import StringIO

from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from enginebay.config.bench import BenchConfig
from enginebay.config.loader import parse_config
from enginebay.config.models import BackendEntry, Config
from enginebay.config.server import ServerConfig
from enginebay.config.settings import EngineSettings
from enginebay.errors import ConfigError

SECRET = "planted-4711-secret"
KEYS = sorted(
    {key for model in (Config, BackendEntry, EngineSettings, BenchConfig, ServerConfig) for key in model.model_fields}
    | {"api_key", "HF_TOKEN", "unknown", "a.b", "0", "", "<<"}
)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(["yes", "64", "reference", "${PLANTED}"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


def dumped(value: object) -> str:
    stream = StringIO()
    YAML(typ="safe", pure=True).dump(value, stream)
    return stream.getvalue()


def outcome(text: str) -> Config | ConfigError:
    try:
        return parse_config(text, environment={"PLANTED": SECRET})
    except ConfigError as error:
        return error


@given(st.text(alphabet="ab:{}[],&*!<>|'\"#- \n\t%${}?~1.\x00\x85é", max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_config_or_a_config_error(text: str) -> None:
    found = outcome(text)
    assert isinstance(found, Config) or str(found).startswith("<text>")


@given(st.dictionaries(st.sampled_from(KEYS), values, max_size=6))
@settings(max_examples=200, deadline=None)
def test_no_tree_of_values_makes_a_message_or_a_repr_tell_a_secret(tree: Mapping[str, object]) -> None:
    found = outcome(dumped({"version": 1, **tree}))
    if isinstance(found, Config):
        assert SECRET not in f"{found!r}{found.model_dump_json()}"
    else:
        assert SECRET not in f"{found}{found!r}{found.__cause__}{found.__cause__!r}"
        assert all(problem.line for problem in getattr(found, "problems", (found,)))
