"""Checkpoints: whole or not there, told apart from damaged ones, removed by step."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import write_checkpoint
from datasets import Dataset
from tiny_training import LoadedModel, recipe, trainer

from sparsekit.errors import ConfigError
from sparsekit.training import checkpoints
from sparsekit.training.arguments import SparseTrainingArguments
from sparsekit.training.resume import chosen_checkpoint


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with checkpoints 5, 10 and 15."""
    for step in (10, 5, 15):
        write_checkpoint(tmp_path / "checkpoints", step)
    return tmp_path


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "rng_state.pth"])
@pytest.mark.parametrize("harm", ["cut", "emptied", "flipped", "removed"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    run: Path, name: str, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = run / "checkpoints" / "checkpoint-15" / name
    content = file.read_bytes()
    if harm == "removed":
        file.unlink()
    else:
        changed = {"cut": content[:-1], "emptied": b"", "flipped": b"C" + content[1:]}
        file.write_bytes(changed[harm])
    chosen = chosen_checkpoint("auto", run / "checkpoints")
    assert chosen == run / "checkpoints" / "checkpoint-10"
    assert "checkpoint-15 is not used" in caplog.text
    assert name in caplog.text
    with pytest.raises(ConfigError, match=r"not a complete checkpoint.*" + name):
        chosen_checkpoint(str(file.parent), run / "checkpoints")


@pytest.mark.parametrize("state", [b"", b"{", b"[]", b"null", b"\xff"])
def test_a_damaged_state_or_record_is_damage(run: Path, state: bytes) -> None:
    checkpoint = run / "checkpoints" / "checkpoint-15"
    for name in (checkpoints.RECORD, checkpoints.STATE):
        (checkpoint / name).write_bytes(state)
        assert checkpoints.damage(checkpoint)


def test_a_record_of_another_version_or_of_other_folders_is_damage(run: Path) -> None:
    checkpoint = run / "checkpoints" / "checkpoint-15"
    file = checkpoint / checkpoints.RECORD
    whole = json.loads(file.read_text())
    for change in ({"version": 2}, {"files": {"../checkpoint-10/optimizer.pt": "0"}}):
        file.write_text(json.dumps(whole | change))
        assert checkpoints.damage(checkpoint)
    file.write_text(json.dumps(whole))
    assert checkpoints.damage(checkpoint) is None


def test_every_obvious_word_names_the_newest_checkpoint(run: Path) -> None:
    own, newest = run / "checkpoints", run / "checkpoints" / "checkpoint-15"
    for choice in ("auto", "true", True, str(run), str(own), str(newest)):
        assert chosen_checkpoint(choice, own) == newest, choice
    assert chosen_checkpoint(str(own / "checkpoint-5"), own) == own / "checkpoint-5"
    for choice in (None, False, "false", ""):
        assert chosen_checkpoint(choice, own) is None, choice


def test_without_a_checkpoint_auto_starts_and_true_is_refused(tmp_path: Path) -> None:
    assert chosen_checkpoint("auto", tmp_path / "checkpoints") is None
    with pytest.raises(ConfigError, match="there is no whole checkpoint in"):
        chosen_checkpoint(True, tmp_path / "checkpoints")
    with pytest.raises(ConfigError, match=r"it lacks trainer_state.json, optimizer.pt"):
        chosen_checkpoint(str(tmp_path), tmp_path / "checkpoints")


def test_the_arguments_hold_the_folder_that_was_chosen(run: Path) -> None:
    arguments = SparseTrainingArguments(
        output_dir=str(run / "checkpoints"), resume_from_checkpoint="auto", num_train_epochs=2
    )
    assert arguments.resume_from_checkpoint == str(run / "checkpoints" / "checkpoint-15")
    # SparseTrainer's arguments name the run folder.
    for choice in ("auto", True):
        arguments = SparseTrainingArguments(str(run), resume_from_checkpoint=choice)
        assert arguments.resume_from_checkpoint == str(run / "checkpoints" / "checkpoint-15")


@pytest.mark.parametrize(
    ("limit", "best", "left"),
    [(None, None, [5, 10, 15]), (1, None, [10]), (2, None, [5, 10]), (1, 5, [5, 10])],
)
def test_rotation_goes_by_step_and_takes_an_earlier_runs_first(
    run: Path, limit: int | None, best: int | None, left: list[int]
) -> None:
    """After step 10, so that 15 is of an earlier run, with a clock that went backwards."""
    folder = run / "checkpoints"
    os.utime(folder / "checkpoint-5", (time.time() + 3600,) * 2)
    kept = None if best is None else str(folder / f"checkpoint-{best}")
    checkpoints.rotate(folder / "checkpoint-10", limit, kept)
    assert [checkpoints.step_of(path) for path in checkpoints.checkpoints(folder)] == left


def test_training_publishes_whole_checkpoints_and_keeps_the_last(
    tmp_path: Path, student: LoadedModel, rows: dict[str, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    made = trainer(
        tmp_path, student, rows, recipe(), save_strategy="steps", save_steps=3, save_total_limit=2
    )
    made.trained_by = {"seed": 42}
    publish = checkpoints.publish

    def published(checkpoint: Path, folder: Path, trained_by: Any) -> Path:
        # All files are written, and none is where a run that resumes would look.
        assert (checkpoint / "optimizer.pt").is_file()
        assert not (folder / checkpoint.name).exists()
        seen.append([path.name for path in checkpoints.checkpoints(folder)])
        return publish(checkpoint, folder, trained_by)

    monkeypatch.setattr("sparsekit.training.checkpoints.publish", published)
    # A clock that went backwards: an earlier checkpoint seems to be the newest.
    monkeypatch.setattr(os.path, "getmtime", lambda path: -len(str(path)))
    made.train()
    assert seen[-1] == ["checkpoint-12", "checkpoint-15"]
    left = checkpoints.checkpoints(tmp_path)
    assert [path.name for path in left] == ["checkpoint-15", "checkpoint-16"]
    assert all(checkpoints.damage(path) is None for path in left)
    assert checkpoints.record(left[-1])["trained_by"] == {"seed": 42}
    assert not (tmp_path / checkpoints.UNFINISHED).exists()
