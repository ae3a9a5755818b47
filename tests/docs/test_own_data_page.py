"""The page on own data names every key of the data sets, each with an example that composes."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields

import pytest
from hydra import compose, initialize_config_dir
from project import CONF, ROOT

from sparsekit.config.plain import plain
from sparsekit.data.datasets import BuiltDataset, FileDataset, HubDataset
from sparsekit.data.more_texts import MoreTexts
from sparsekit.data.selection import RowSelection
from sparsekit.data.streaming import Streaming
from sparsekit.tasks.config import build_source, build_task
from sparsekit.tasks.text_classification import TextClassification

PAGE = (ROOT / "docs" / "how-to" / "own-data.md").read_text()
KEYS = sorted(
    {
        field.name
        for kind in (
            FileDataset,
            HubDataset,
            BuiltDataset,
            RowSelection,
            MoreTexts,
            Streaming,
            TextClassification,
        )
        for field in fields(kind)
    }
)
EXAMPLES = re.findall(r"\| `([^`|]+)` \|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("key", KEYS)
def test_a_key_stands_on_the_page(key: str) -> None:
    assert f"`dataset.{key}`" in PAGE


def test_every_row_of_a_table_of_keys_has_an_example() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| `dataset.")]
    assert len(rows) == len(EXAMPLES) == len(KEYS) - 1  # `source` has a section of its own


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_builds(example: str) -> None:
    (override,) = shlex.split(example)
    key = override.partition("=")[0].split(".")[1]
    of_hub = key in {field.name for field in fields(HubDataset)}
    chosen = ["dataset=hub", "dataset.path=me/tickets"] if of_hub else ["dataset=files"]
    needed = [] if of_hub else ["dataset.data_files.train=a.csv"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = [*chosen, *needed, "output_dir=outputs", override]
        config = plain(compose("config", overrides))
    assert build_source(config["dataset"], build_task(config, trusted=True))
