"""A checkpoint from elsewhere: no pickle in it is executed, as weights or as training state."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from checkpoint_files import write_checkpoint
from tiny_training import Rows, load_student, recipe, trainer

from sparsekit.errors import UserError
from sparsekit.training import checkpoints


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("plain", [True, False])
def test_pickled_weights_run_no_code(tmp_path: Path, teacher_folder: str, plain: bool) -> None:
    folder = Path(shutil.copytree(teacher_folder, tmp_path / "model"))
    for file in folder.glob("*.safetensors"):
        file.unlink()
    target, weights = tmp_path / "executed", folder / "pytorch_model.bin"
    if plain:
        weights.write_bytes(pickle.dumps({"classifier.bias": Payload(target)}, protocol=2))
    else:
        torch.save({"classifier.bias": Payload(target)}, weights)
    with pytest.raises(UserError, match="cannot read the weights"):
        load_student(str(folder))
    assert not target.exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_pickled_training_state_runs_no_code(
    tmp_path: Path, student_folder: str, rows: Rows, name: str
) -> None:
    """Also where its sums are right, as whoever made the checkpoint would write them."""
    saving = {"save_strategy": "steps", "save_steps": 4, "max_steps": 4}
    made = trainer(tmp_path / "run", load_student(student_folder), rows, recipe(), **saving)
    made.train()
    checkpoint, target = tmp_path / "run" / "checkpoint-4", tmp_path / "executed"
    torch.save(Payload(target), checkpoint / name)
    record = json.loads((checkpoint / checkpoints.RECORD).read_text())
    record["files"][name] = checkpoints.file_hash(checkpoint / name)
    (checkpoint / checkpoints.RECORD).write_text(json.dumps(record))
    assert checkpoints.damage(checkpoint) is None
    again = trainer(tmp_path / "again", load_student(student_folder), rows, recipe(), max_steps=8)
    with pytest.raises(UserError, match="is not one that training wrote"):
        again.train(resume_from_checkpoint=str(checkpoint))
    assert not target.exists()


def test_a_record_does_not_lead_out_of_its_folder(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, 3)
    record = json.loads((checkpoint / checkpoints.RECORD).read_text())
    record["files"] = {"../../etc/passwd": "0"}
    (checkpoint / checkpoints.RECORD).write_text(json.dumps(record))
    assert checkpoints.damage(checkpoint) == "../../etc/passwd was changed or cut short"
