"""`sparsekit data`: what a run would read, and what it would refuse, without training."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from transformers import PreTrainedTokenizerBase

from sparsekit.cache import content_hash
from sparsekit.config.build import build
from sparsekit.config.command_line import arranged, assigned
from sparsekit.config.mistakes import explained
from sparsekit.config.plain import plain
from sparsekit.config.root import project_root
from sparsekit.data.selection import ReadRows
from sparsekit.errors import ConfigError, UserError, first_line
from sparsekit.models.hub import fetch
from sparsekit.models.loading import CHECKPOINT, Student, positions_of, read_config
from sparsekit.models.tokenizer import load_tokenizer
from sparsekit.pipeline.data_figures import data_figures
from sparsekit.sparseml.recipes.load import register_resolvers
from sparsekit.tasks.base import Data
from sparsekit.tasks.config import build_source, build_task
from sparsekit.tasks.tokens import tokenize

SPLITS = ("train", "validation", "test")
# Settings with which a data set that has the most frequent problems can be read.
MENDED = {"drop_empty": True, "label_case": "ignore"}


@dataclass(frozen=True, kw_only=True)
class DataCheck:
    """Figures of a data set, and the problems for which a run would refuse it.

    note: what the figures leave out; None where they are complete.
    """

    figures: dict[str, Any]
    problems: list[str]
    note: str | None = None


def overrides_of(words: Sequence[str]) -> list[str]:
    """The overrides that the words of the command stand for: files, then overrides.

    >>> overrides_of(["a.csv", "b.csv", "dataset.max_length=64"])[:2]
    ['dataset=files', 'dataset.data_files.train=a.csv']
    """
    files = [word for word in words if _is_file(word)]
    others = [word for word in words if not _is_file(word)]
    if len(files) > len(SPLITS):
        raise UserError(f"give the files of {', '.join(SPLITS)} in this order; not {len(files)}")
    named = [
        assigned(f"dataset.data_files.{split}", file)
        for split, file in zip(SPLITS, files, strict=False)
    ]
    chosen = any(word.startswith(("dataset=", "experiments=")) for word in others)
    return [*([] if chosen else ["dataset=files"]), *named, *others]


def _is_file(word: str) -> bool:
    """Whether a word names a file; `~key` is an override that removes a key."""
    if Path(word).is_file():
        return True
    return "=" not in word and (word.startswith("~/") or not word.startswith("~"))


def composed(words: Sequence[str], config_dir: Path | None) -> dict[str, Any]:
    """The config that `sparsekit train` would have with these words, read as it reads them."""
    overrides = arranged(words)
    register_resolvers()
    root = project_root()
    folders = [root, *([] if config_dir is None else [config_dir.absolute()])]
    path = ",".join(f'"file://{folder}"' for folder in folders)
    try:
        with initialize_config_dir(str(root / "conf"), version_base="1.3"):
            cfg = compose(
                "config", [f"hydra.searchpath=[{path}]", "output_dir=outputs", *overrides]
            )
            return plain(cfg)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explained(error, words)) from error


def check_data(config: Mapping[str, Any]) -> DataCheck:
    """Read the data set of a resolved config as a run would, and check it.

    Data with problems are read a second time with the settings of `MENDED`; what is logged then
    replaces what was logged at first.

    Raises UserError where rows cannot be read, or columns are missing.
    """
    with _held_back("sparsekit.data") as logged:
        try:
            return _checked(config)
        except ConfigError as error:
            problems, first = error.problems, logged.copy()
        logged.clear()
        try:
            return _mended(config, problems)
        except ConfigError:
            logged[:] = first
            raise


def _checked(config: Mapping[str, Any]) -> DataCheck:
    """The check of data without problems; raises ConfigError for data with problems."""
    raw, data = _loaded(config)
    try:
        tokenizer, positions = _tokenizer(config["student"], data)
    except UserError as error:
        # Errors name their fix.
        note = f"lengths are left out without the student's tokenizer: {first_line(error)}"
        return DataCheck(figures=data_figures(raw, data, {}, None, None), problems=[], note=note)
    tokenizer_hash = content_hash([tokenizer.backend_tokenizer.to_str()])
    rows = tokenize(data, tokenizer, tokenizer_hash)
    return DataCheck(figures=data_figures(raw, data, rows, tokenizer, positions), problems=[])


class _Records(logging.Handler):
    """A handler that keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def _held_back(name: str) -> Iterator[list[logging.LogRecord]]:
    """Hold back what the loggers below `name` log; what the list has at the end is logged then."""
    logger = logging.getLogger(name)
    handler = _Records()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield handler.records
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
        for record in handler.records:
            logging.getLogger(record.name).handle(record)


def _tokenizer(
    student: Mapping[str, Any], data: Data
) -> tuple[PreTrainedTokenizerBase, int | None]:
    """The tokenizer of the student, whose weights are not downloaded, and its positions."""
    built = build(dict(student), "student", kind=Student, trusted=True)
    folder = fetch(built.checkpoint, built.revision, weights=False, key=CHECKPOINT)
    config = read_config(folder)
    tokenizer = load_tokenizer(folder, config, data.task.max_length, config.vocab_size)
    return tokenizer, positions_of(config)


def _loaded(config: Mapping[str, Any]) -> tuple[DatasetDict, Data]:
    """The rows of the data set as they were read, and in the form of their task."""
    task = build_task(config, trusted=True)
    raw = build_source(config["dataset"], task).raw(task.columns())
    return raw, task.load(ReadRows(raw))


def _mended(config: Mapping[str, Any], problems: list[str]) -> DataCheck:
    """The check of data with problems: its figures are those with `MENDED`, where these help."""
    dataset = config["dataset"]
    changes = {k: v for k, v in MENDED.items() if k in dataset and dataset[k] != v}
    if not changes:
        raise ConfigError(problems)
    try:
        check = _checked({**config, "dataset": {**dataset, **changes}})
    except UserError:
        raise ConfigError(problems) from None
    settings = " ".join(f"dataset.{key}={str(value).lower()}" for key, value in changes.items())
    notes = [f"the figures are those with {settings}", *([check.note] if check.note else [])]
    return replace(check, problems=problems, note="; ".join(notes))
