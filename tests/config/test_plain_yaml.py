"""Plain YAML is read as PyYAML reads it, and all other YAML by PyYAML itself."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsekit.config.plain_yaml import _plain, load_yaml
from sparsekit.config.yaml_limits import MOST_LEVELS, MOST_VALUES
from sparsekit.errors import UserError

PLAIN = [
    "",
    "# nothing",
    "a: 1",
    "a: [1, 2.5e-5, .inf, ~, yes, 0x1F, 2026-11-28, 1_000, '1', \"1\", x y]\n",
    "a: 1\na: 2\n",
    "1: one\nnull: none\ntrue: yes\n",
    "text: |\n  two\n  lines\nfolded: >-\n  one\n  line\n",
    "- {a: {b: [c, {d: }]}}\n",
    "--- a\n...\n",
    "é: ü\n",
]
OTHERS = [
    "a: &x [1]\nb: *x\n",
    "a: {<<: {b: 1}, c: 2}\n",
    "a: !!str 1\n",
    "a: !!set {b, c}\n",
    "[" * MOST_LEVELS + "]" * MOST_LEVELS,
    f"[{'1, ' * MOST_VALUES}]"[: MOST_VALUES - 1] + "]",
]
REFUSED = ["a: [", "a: b: c", "? [a]\n: b\n", "a: 1\n---\nb: 1\n", "a: !!python/name:os.system x\n"]

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


@pytest.mark.parametrize("text", [*PLAIN, *OTHERS], ids=range(len(PLAIN) + len(OTHERS)))
def test_yaml_is_read_as_by_pyyaml(text: str) -> None:
    read = load_yaml(text, "it")
    expected = yaml.safe_load(text)
    assert repr(read) == repr(expected)
    assert load_yaml(text.encode(), "it") == read


@pytest.mark.parametrize("text", PLAIN, ids=range(len(PLAIN)))
def test_the_quick_reader_takes_plain_yaml(text: str) -> None:
    assert repr(_plain(text)) == repr(yaml.safe_load(text))


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_what_pyyaml_refuses_is_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        load_yaml(text, "it")


def test_the_limits_hold() -> None:
    with pytest.raises(UserError, match="it nests more than"):
        load_yaml("[" * (MOST_LEVELS + 1) + "]" * (MOST_LEVELS + 1), "it")
    with pytest.raises(UserError, match="it holds more than"):
        load_yaml(f"[{'1,' * (MOST_VALUES + 1)}]", "it")


# A busy machine generates them slowly.
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(VALUES)
def test_what_is_written_is_read(value: Any) -> None:
    text = yaml.safe_dump(value)
    assert load_yaml(text, "it") == yaml.safe_load(text)


def test_readers_do_not_share_lists() -> None:
    first, second = load_yaml("a: [1]", "it"), load_yaml("a: [1]", "it")
    first["a"].append(2)
    assert second == {"a": [1]}
