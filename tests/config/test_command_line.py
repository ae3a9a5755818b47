"""Words of a command line that Hydra's own parser cannot read."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from sparsekit.config.command_line import arranged, assigned
from sparsekit.errors import UserError


def test_options_come_first_and_what_hydra_reads_stays_as_it_is() -> None:
    words = [
        "dataset=csv",
        "-m",
        "seed=1,2",
        "~recipe.modifiers.qat",
        "recipe.a=choice(1,2)",
        "x='ä'",
    ]
    assert arranged(words) == ["-m", *(word for word in words if word != "-m")]


def test_help_gets_a_data_set_unless_one_is_chosen() -> None:
    assert arranged(["--help"]) == ["--help", "dataset=rotten_tomatoes"]
    assert arranged(["dataset=csv", "--help"]) == ["--help", "dataset=csv"]


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("--num_epochs 3", "--num_epochs is not an option; .*: write num_epochs=3$"),
        ("dataset=csv --seed=3", "--seed=3 is not an option; .*: write seed=3$"),
        ("--teacher -m", "write teacher=VALUE$"),
    ],
)
def test_a_value_written_as_an_option_is_told_how_to_write_it(words: str, advice: str) -> None:
    with pytest.raises(UserError, match=advice):
        arranged(words.split())


def test_options_of_hydra_are_left_alone() -> None:
    words = ["--config-dir", "conf", "--cfg", "job", "--multirun", "--info", "all", "--resolve"]
    assert arranged([*words, "--package=recipe"]) == [*words, "--package=recipe"]


@pytest.mark.parametrize("option", [["--config-dir", "/tmp/a=b"], ["--config-dir=/tmp/a=b"]])
def test_a_value_of_an_option_is_no_override(option: list[str]) -> None:
    assert arranged(["dataset=csv", *option, "seed=1"]) == [*option, "dataset=csv", "seed=1"]
    # Nor where an override reads the same.
    words = ["seed=1", "-m", "--config-dir", "seed=1"]
    assert arranged(words) == ["-m", "--config-dir", "seed=1", "seed=1"]
    with pytest.raises(UserError, match=r"--seed is not an option; .*: write seed=3$"):
        arranged([*option, "--seed", "3"])


@pytest.mark.parametrize(
    "name", ["möd", "a b", "run(1)", "a=b", "it's", "[x]", 'an "odd" one', "b#~&"]
)
def test_paths_that_are_there_need_no_quotes(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    for path in (tmp_path / name, tmp_path / name / "new"):
        (word,) = arranged([f"dataset.train={path}"])
        assert OverridesParser.create().parse_override(word).value() == str(path)


@pytest.mark.parametrize("value", ["bösé", "f(x", "it's"])
def test_other_text_is_told_what_to_write(value: str) -> None:
    with pytest.raises(UserError, match="Hydra cannot read this value") as caught:
        arranged([f"dataset.train={value}"])
    (advice,) = str(caught.value).split("reach it: ")[1:]
    # What a shell makes of the advice is what Hydra then reads.
    (word,) = shlex.split(advice)
    assert OverridesParser.create().parse_override(word).value() == value


def test_a_path_that_looks_like_an_interpolation_is_that_path(tmp_path: Path) -> None:
    file = tmp_path / "${now:%Y}" / "train.csv"
    file.parent.mkdir()
    (word,) = arranged([f"dataset.train={file}"])
    value = OverridesParser.create().parse_override(word).value()
    assert OmegaConf.create({"train": value}).train == str(file)
    assert arranged(["output_dir=${now:%Y}"]) == ["output_dir=${now:%Y}"]


@pytest.mark.parametrize(
    "value",
    [
        "/tmp/rows.csv",
        "/tmp/my rows.csv",
        "/tmp/rows (1).csv",
        "/tmp/a,b.csv",
        "/tmp/a=b.csv",
        "/tmp/été.csv",
        "/tmp/a'b.csv",
        '/tmp/a"b.csv',
        "C:\\a\\",
        'a\\"b',
        "/tmp/${HOME}/rows.csv",
        "a\\${b}",
        "[1].csv",
        "null",
        "7",
        "range(1,3)",
        " rows",
    ],
)
def test_an_assigned_text_is_read_as_it_stands(value: str) -> None:
    word = assigned("key", value)
    read = OverridesParser.create().parse_override(word)
    assert not read.is_sweep_override()
    assert OmegaConf.create({"key": read.value()}).key == value
    assert arranged([word]) == [word]
