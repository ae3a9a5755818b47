"""Runs on a stream of training rows: resumed bit for bit, taught as rows come, refused in words."""

from __future__ import annotations

import csv
import itertools
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import hub_seed
import pytest
from hub import serve
from launching import TAUGHT_BY_ITSELF, launch, local, planned, run_here
from transformers import AutoTokenizer

from sparsekit.errors import ConfigError
from sparsekit.pipeline import experiment
from sparsekit.runs.folder import RunFolder

# 128 rows in blocks of 20: the 96 rows of the file and 32 of the second pass.
STREAM = [
    *("dataset.streaming=true", "dataset.shuffle_buffer=20", "export=none"),
    *("training.save_strategy=steps", "+training.save_steps=1", "training.save_total_limit=9"),
    *("training.max_steps=8", "training.gradient_accumulation_steps=2"),
]


@pytest.mark.parametrize(("teacher", "step"), [(["teacher=none"], 3), (TAUGHT_BY_ITSELF, 7)])
def test_a_resumed_stream_goes_on_at_the_right_row(
    csv_files: dict[str, str],
    student_folder: str,
    tmp_path: Path,
    teacher: Sequence[str],
    step: int,
) -> None:
    settings = [*local(csv_files, student_folder), *STREAM, *teacher]
    unbroken = run_here(tmp_path / "run", *settings)
    weights = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    again = shutil.copytree(tmp_path / "run", tmp_path / "again")
    for later in range(step + 1, 9):
        shutil.rmtree(again / "checkpoints" / f"checkpoint-{later}")
    (again / "model" / "model.safetensors").unlink()
    resumed = run_here(again, *settings, "training.resume_from_checkpoint=auto")
    assert (again / "model" / "model.safetensors").read_bytes() == weights
    assert resumed["train"]["steps"] == unbroken["train"]["steps"] == 8
    figures = json.loads((again / "data.json").read_text())["splits"]["train"]
    assert figures["rows"] == 20 and figures["streamed"]
    assert ("teacher" in resumed) == (teacher is TAUGHT_BY_ITSELF)


def test_the_order_of_a_stream_is_that_of_its_seed_and_buffer(
    csv_files: dict[str, str], student_folder: str, tmp_path: Path
) -> None:
    stream = [*local(csv_files, student_folder), *STREAM, "teacher=none"]

    def read(*words: str) -> list[list[int]]:
        """The tokens of the first 20 rows, which are those of the first block."""
        plan = planned(*stream, *words)
        inputs = experiment._inputs(plan, RunFolder(tmp_path), False)
        assert inputs.stream is not None
        return [row["input_ids"] for row in itertools.islice(inputs.stream, 20)]

    shuffled, other = read("seed=1"), read("seed=2")
    assert shuffled == read("seed=1") != other
    in_order = read("dataset.shuffle_buffer=0")
    assert in_order == read("dataset.shuffle_buffer=0", "seed=2") != shuffled
    assert sorted(in_order) == sorted(shuffled) == sorted(other)
    tokenizer = AutoTokenizer.from_pretrained(student_folder)
    with Path(csv_files["train"]).open(newline="") as file:
        texts = [row["text"] for row in itertools.islice(csv.DictReader(file), 20)]
    assert in_order == tokenizer(texts)["input_ids"]


PLANNED = [
    *("dataset=files", "dataset.streaming=true", "training.max_steps=100"),
    *("dataset.data_files.train=a.csv", "dataset.data_files.validation=b.csv"),
]


def test_a_stream_is_planned() -> None:
    assert planned(*PLANNED).streaming.shuffle_buffer == 10_000


@pytest.mark.parametrize(
    ("override", "fix"),
    [
        ("training.max_steps=-1", "set training.max_steps to the number of steps"),
        ("dataset.data_files.validation=null", "set dataset.data_files.validation=FILE"),
        ("dataset.test_fraction=0.1", "dataset.test_fraction=0.1 cannot be split off"),
        ("dataset.drop_leaked=near", "dataset.drop_leaked compares all training rows"),
        ("dataset.label_case=ignore", "write each label in one way, or set keep"),
        ("dataset.shuffle_buffer=-1", "dataset.shuffle_buffer is -1; set a number of rows, or 0"),
        ("dataset=conll", "reads files and data sets of the Hub, not ConllDataset"),
        ("teacher=finetuned", "fine-tunes no teacher; train one by itself"),
        ("teacher.checkpoint=[one,two]", "teacher.checkpoint names 2 teachers"),
        ("training.class_weights=balanced", "give a weight for each class"),
        ("training.tokens_per_batch=4096", "training.tokens_per_batch sorts all training rows"),
        ("+training.dataloader_num_workers=2", "training.dataloader_num_workers=2 would read"),
        ("dataset.augment.copies=1", "dataset.augment need all training texts at once"),
    ],
)
def test_what_a_stream_cannot_do_is_refused_with_the_fix(override: str, fix: str) -> None:
    chosen = [override]
    if "checkpoint" in override:
        chosen = ["teacher=checkpoint", override]
    if "augment" in override:
        chosen = ["teacher=self", "recipe.distill_hardness=1", override]
    with pytest.raises(ConfigError) as refused:
        planned(*PLANNED, *chosen)
    assert [problem for problem in refused.value.problems if fix in problem]


def test_the_rows_of_a_resumed_stream_must_be_those_of_its_checkpoint(
    csv_files: dict[str, str], student_folder: str, tmp_path: Path
) -> None:
    train = Path(shutil.copy(csv_files["train"], tmp_path / "train.csv"))
    files = {**csv_files, "train": str(train)}
    settings = [*local(files, student_folder), *STREAM, "training.max_steps=1"]
    run_here(tmp_path / "run", *settings)
    # Behind the first block, which alone is read before training.
    train.write_text(train.read_text() + "an afterthought,1\n")
    with pytest.raises(ConfigError, match="training rows was"):
        run_here(tmp_path / "run", *settings, "training.resume_from_checkpoint=auto")


def test_a_mistake_late_in_the_stream_ends_the_run_with_its_line(
    csv_files: dict[str, str], student_folder: str, tmp_path: Path
) -> None:
    train = Path(shutil.copy(csv_files["train"], tmp_path / "train.csv"))
    train.write_text(train.read_text() + "an afterthought,maybe\n")
    files = {**csv_files, "train": str(train)}
    with pytest.raises(ConfigError, match=r"train\.csv, line 98: .*'maybe' is never seen in valid"):
        run_here(tmp_path / "run", *local(files, student_folder), *STREAM)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"


@pytest.mark.slow
def test_a_dataset_of_the_hub_is_streamed_without_a_copy(seed_folder: Path, tmp_path: Path) -> None:
    settings = [
        *("dataset=hub", f"dataset.path={hub_seed.DATASET}", "dataset.streaming=true"),
        *("dataset.shuffle_buffer=16", "training=smoke", "training.max_steps=2"),
        *("runtime=none", "export=none", "tracking=none", f"output_dir={tmp_path / 'run'}"),
        f"student.checkpoint={seed_folder / 'models' / hub_seed.STUDENT}",
    ]
    with serve(seed_folder) as hub:
        environment = os.environ | hub.environment(tmp_path / "home")
        done = launch(" ".join(settings), tmp_path, environment)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert set(summary["metrics"]) == {"validation", "test"}
    # What `datasets` reads as a table it writes as Arrow files first.
    assert not list((tmp_path / "home").rglob("*.arrow"))
