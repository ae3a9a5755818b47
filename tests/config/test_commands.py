"""Every training command in conf/, experiments/, README and docs composes, and would start."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from launching import composed
from project import CONF, ROOT, SPARSEML_RECIPES

from sparsekit.config.command_line import arranged
from sparsekit.config.plain import plain
from sparsekit.config.unread import unread_keys, unread_variables
from sparsekit.pipeline.plan import Plan

START = re.compile(r"(?:python\s+(?:\S*/)?launch\.py|sparsekit train|\$\{this_command:\})\s+(.*)")
FILES = [
    *sorted(CONF.rglob("*.yaml")),
    *sorted((ROOT / "experiments").rglob("*.yaml")),
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
# What a user writes in place of a name in capitals.
STAND_INS = {"recipe.path": str(SPARSEML_RECIPES / "transfer_qat.yaml")}


def commands(text: str) -> Iterator[str]:
    """The arguments of each command in a text, lines that end in a backslash joined."""
    lines = iter(text.splitlines())
    for line in lines:
        found = START.search(line)
        if not found:
            continue
        words = found[1]
        if "`" in line[: found.start()]:
            words = words.partition("`")[0]
        while words.endswith("\\"):
            # Within a comment the next line has its own sign.
            words = words[:-1] + " " + re.sub(r"^\s*#", "", next(lines)).strip()
        if "=" in words:
            yield words.strip()


def words_of(command: str) -> list[str]:
    """The words of the first command of a line, without what a shell or a reader adds."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=";|&")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    words: list[str] = []
    for word in lexer:
        if set(word) <= set(";|&"):
            break
        words.append(word)
    if "..." not in words:
        return words
    # What the page leaves out are the data.
    words.remove("...")
    if not any(word.startswith(("dataset=", "experiments=")) for word in words):
        words.append("dataset=rotten_tomatoes")
    if "dataset=csv" in words:
        words += [f"dataset.data_files.{split}={split}.csv" for split in ("train", "validation")]
    return words


def jobs(overrides: list[Override]) -> list[list[str]]:
    """The overrides of each job that differs from the first in one value of a sweep."""
    choices: list[list[str]] = []
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices.append([override.input_line or ""])
        elif isinstance(value := override.value(), IntervalSweep):
            choices.append([f"{key}={value.start}", f"{key}={value.end}"])
        else:
            choices.append([f"{key}={each}" for each in override.sweep_string_iterator()])
    first = [values[0] for values in choices]
    return [first] + [
        [*first[:i], other, *first[i + 1 :]]
        for i, values in enumerate(choices)
        for other in values[1:]
    ]


COMMANDS = [
    pytest.param(command, id=f"{file.relative_to(ROOT)}: {command}")
    for file in FILES
    for command in commands(file.read_text())
    # A folder of the user's own that is not here.
    if "--config-dir" not in command
]


def test_the_walk_finds_commands_of_every_kind() -> None:
    shown = [str(each.values[0]) for each in COMMANDS]
    assert len(shown) >= 20
    assert any(words_of(command)[0] == "-m" for command in shown)
    text = "# python launch.py a=1 \\\n#     b=2; next c=3\n`sparsekit train d=4` and e=5\n"
    found = [words_of(command) for command in commands(text)]
    assert found == [["a=1", "b=2"], ["d=4"]]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_composes(
    command: str, peer_stand_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A page tells how to install the trackers that it names.
    monkeypatch.setattr("sparsekit.training.packages.find_spec", lambda name: "installed")
    words = [w for w in arranged(words_of(command)) if "=" in w or w.startswith("~")]
    parsed = OverridesParser.create().parse_overrides(
        [
            f"{key}={STAND_INS[key]}" if (key := word.partition("=")[0]) in STAND_INS else word
            for word in words
        ]
    )
    assert parsed
    for overrides in jobs(parsed):
        cfg = composed(*overrides)
        assert unread_variables(cfg, overrides) + unread_keys(cfg) == []
        Plan.build(plain(cfg))
