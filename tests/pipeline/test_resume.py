"""Runs that are taken up again: only with the settings that their checkpoint was trained by."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from launching import local, run_here

from sparsekit.errors import ConfigError
from sparsekit.training import checkpoints

SAVING = [
    *("export=none", "training.save_strategy=steps", "+training.save_steps=2"),
    "training.save_total_limit=5",
]


@pytest.fixture(scope="module")
def interrupted(
    csv_files: dict[str, str], student_folder: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run of four steps with checkpoints after two and four; the later one is removed."""
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    settings = [*local(csv_files, student_folder), *SAVING]
    run_here(folder, *settings)
    shutil.rmtree(folder / "checkpoints" / "checkpoint-4")
    return folder


def resume(run: Path, settings: list[str], *changes: str) -> dict[str, object]:
    return run_here(run, *settings, *SAVING, "training.resume_from_checkpoint=auto", *changes)


def test_a_resumed_run_is_the_same_run(
    interrupted: Path, tmp_path: Path, csv_files: dict[str, str], student_folder: str
) -> None:
    """The same weights and config hash; only `training.resume_from_checkpoint` differs."""
    run = shutil.copytree(interrupted, tmp_path / "run")
    weights = (run / "model" / "model.safetensors").read_bytes()
    (run / "model" / "model.safetensors").unlink()
    after = resume(run, local(csv_files, student_folder))
    assert (run / "model" / "model.safetensors").read_bytes() == weights
    assert after["train"]["steps"] == 4  # type: ignore[index]
    before = json.loads((interrupted / "summary.json").read_text())
    assert after["config"]["hash"] == before["config"]["hash"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("seed=7", "seed was 42 and is now 7"),
        ("recipe.init_lr=1e-3", "recipe.init_lr was"),
        ("recipe.qat_epochs=0", "recipe.qat_epochs was"),
        ("student.sparsity=0.95", "student.sparsity was"),
        ("training.per_device_train_batch_size=4", "per_device_train_batch_size was 8"),
        ("training.max_steps=6", "training.max_steps was 4 and is now 6"),
        ("recipe=dense", "recipe."),
    ],
)
def test_another_config_is_refused_by_name(
    interrupted: Path, csv_files: dict[str, str], student_folder: str, change: str, key: str
) -> None:
    summary = (interrupted / "summary.json").read_bytes()
    with pytest.raises(ConfigError) as refused:
        resume(interrupted, local(csv_files, student_folder), change)
    assert key in str(refused.value)
    assert "training.resume_despite_changes=true" in str(refused.value)
    assert (interrupted / "summary.json").read_bytes() == summary


def test_another_optimizer_cannot_read_the_state(
    interrupted: Path, csv_files: dict[str, str], student_folder: str
) -> None:
    changes = ["training.optim=sgd", "training.resume_despite_changes=true"]
    with pytest.raises(ConfigError, match=r"state of training\.optim=adamw_torch_fused, which sgd"):
        resume(interrupted, local(csv_files, student_folder), *changes)


@pytest.mark.parametrize("harm", ["cut", "emptied"])
@pytest.mark.parametrize(
    "name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors", "config.json"]
)
def test_a_damaged_file_is_found_without_a_record(
    interrupted: Path, tmp_path: Path, name: str, harm: str
) -> None:
    """In checkpoints of versions before 0.2, or with a record that was removed."""
    checkpoint = interrupted / "checkpoints" / "checkpoint-2"
    copy = shutil.copytree(checkpoint, tmp_path / "checkpoint-2")
    (copy / checkpoints.RECORD).unlink()
    assert checkpoints.damage(copy) is None
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: len(content) // 2] if harm == "cut" else b"")
    assert name in str(checkpoints.damage(copy))


def test_other_training_rows_are_refused_unless_asked_for(
    interrupted: Path, tmp_path: Path, csv_files: dict[str, str], student_folder: str
) -> None:
    run, train = shutil.copytree(interrupted, tmp_path / "run"), Path(csv_files["train"])
    content = train.read_bytes()
    rows = list(csv.reader(train.read_text().splitlines()))
    try:
        with train.open("w", newline="") as file:
            csv.writer(file).writerows([*rows[:-1], ["quite another text", rows[-1][1]]])
        with pytest.raises(ConfigError, match="training rows was"):
            resume(run, local(csv_files, student_folder))
        summary = resume(
            run, local(csv_files, student_folder), "training.resume_despite_changes=true"
        )
        assert summary["status"] == "completed"
    finally:
        train.write_bytes(content)


def test_a_checkpoint_without_a_record_is_held_against_its_runs_config(
    interrupted: Path, tmp_path: Path, csv_files: dict[str, str], student_folder: str
) -> None:
    run = shutil.copytree(interrupted, tmp_path / "run")
    (run / "checkpoints" / "checkpoint-2" / checkpoints.RECORD).unlink()
    with pytest.raises(ConfigError, match="seed was 42 and is now 7"):
        resume(run, local(csv_files, student_folder), "seed=7")
