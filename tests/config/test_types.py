"""What a user may write where a number, a text or a list is wanted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import pytest

from sparsekit.config.build import build
from sparsekit.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(kw_only=True)
class Part:
    count: int = 1
    share: float | None = None
    on: bool = True
    names: list[str] = field(default_factory=list)
    files: dict[str, str | None] = field(default_factory=dict)
    where: str | dict[str, Any] = ""
    level: Literal["low", "high"] = "low"


@dataclass(kw_only=True)
class Cached(Part):
    cache: Tensor | None = None


PART = f"{__name__}.Part"


@pytest.mark.parametrize(
    "values",
    [
        {"count": 3, "share": 1, "on": False},
        {"share": None, "on": 1, "names": ["a"], "files": {"train": "a", "test": None}},
        {"where": {"_target_": "x"}, "level": "high"},
    ],
)
def test_what_fits_is_built(values: dict[str, Any]) -> None:
    assert vars(build({"_target_": PART, **values}, "part")).items() >= values.items()


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("count", "abc", "part.count is 'abc'; it must be a whole number"),
        ("count", 1.5, "part.count is 1.5"),
        ("count", True, "part.count is True"),
        ("share", "hot", "a number or null"),
        ("on", "maybe", "true or false"),
        ("names", "text", r"a list, as in \[a,b\]"),
        ("names", [1], r"part.names is \[1\]"),
        ("files", {"train": 3}, "a mapping"),
        ("where", 7, "in quotes where it reads as a number"),
        ("level", "top", "low or high"),
    ],
)
def test_what_does_not_fit_is_named(key: str, value: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        build({"_target_": PART, key: value}, "part")


def test_all_problems_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        build({"_target_": PART, "count": "a", "share": "b", "shape": 1}, "part")
    assert len(caught.value.problems) == 3


def test_a_type_that_only_a_type_checker_knows_is_left_to_the_class() -> None:
    assert build({"_target_": f"{__name__}.Cached", "cache": 3}, "part").cache == 3
    with pytest.raises(ConfigError, match=r"part\.count is 'abc'"):
        build({"_target_": f"{__name__}.Cached", "count": "abc"}, "part")
