"""A user's mistake ends in one error that names the value and the fix, and in a failed summary."""

from __future__ import annotations

import json
import re
from pathlib import Path

import hub_seed
import pytest
from launching import TAUGHT_BY_ITSELF, local, run_here

from sparsekit.errors import UserError


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (["dataset.label_column=stars"], "no column stars; it has text, label"),
        (["dataset.metrics=[bleu]"], "'bleu' is not known; known: accuracy"),
        (["teacher=checkpoint", "teacher.checkpoint={twin}"], "BertForMaskedLM, not a sequence"),
        (["teacher=checkpoint", "teacher.checkpoint=./nowhere"], "no checkpoint folder ./nowhere"),
        (["student.checkpoint={dense}"], "weights are zero"),
        (["+recipe.modifiers.pruning.sparsity=1"], "sparsity is not a field of ConstantPruning"),
        (["recipe.modifiers.pruning.params=[nose]"], "'nose' matches no parameter"),
        (["dataset.max_length=4096"], "max_length 4096 is more than the 512 positions"),
        (["recipe.num_epochs=5", "recipe.qat_epochs=6"], "start -1 lies before epoch 0"),
        (["+training.sead=1"], "did you mean"),
        (["+recipe.hardness=0.5"], "nothing in the recipe reads hardness"),
        (["training.resume_from_checkpoint=./nowhere"], "lacks trainer_state.json, optimizer.pt"),
        (["training.max_steps=0"], "max_steps is 0; set 1 or more"),
        (["recipe.init_lr=1e30"], "training diverged"),
        (["recipe.modifiers.pruning.params=['re:(a']"], "'re:(a' is not a regular expression"),
        (["teacher=checkpoint", "teacher.checkpoint=[]"], "teacher.checkpoint is empty"),
        (["student.checkpoint='my model'"], "'my model' is neither a local folder nor a Hub id"),
        (["runtime=onnxruntime", "runtime.runtime=foo.Bar"], "runtime.runtime 'foo.Bar'"),
        (["seed=soon"], "training.seed is 'soon'; it must be a whole number"),
        (["seed=-1"], "seed is -1; set a whole number from 0 to 4294967295"),
        (["+num_epochs=3"], "num_epochs: nothing reads it, so it would have no effect"),
        (["recipe.qat_epochs=-1"], "quantization starts at epoch 14 but training ends at 13"),
        (["runtime=onnxruntime", "runtime.threads=0"], "runtime.threads is 0, it must be"),
        (["dataset.max_length=3"], "max_length 3 leaves no room for text"),
        (["training.per_device_train_batch_size=0"], "batch_size is 0; set 1 or more"),
        (
            ["recipe.qat_epochs=0.5"],
            "recipe.modifiers.quantization observes its ranges from epoch 12.5 to 12.75, but none "
            "of the 4 optimizer steps",
        ),
        # 12 steps an epoch, which is known once the data is there, and before the first of them.
        (
            ["recipe.num_epochs=1", "recipe.qat_epochs=0.05", "training.max_steps=-1"],
            "from epoch 0.95 to 0.975, but none of the 12 optimizer steps",
        ),
    ],
)
def test_bad_input_fails_with_a_summary(
    tmp_path: Path,
    csv_files: dict[str, str],
    student_folder: str,
    teacher_folder: str,
    seed_folder: Path,
    change: list[str],
    problem: str,
) -> None:
    twin = str(seed_folder / "models" / hub_seed.MASKED_LM_TWIN)
    filled = [text.format(twin=twin, dense=teacher_folder) for text in change]
    with pytest.raises(UserError, match=re.escape(problem)):
        run_here(tmp_path, *local(csv_files, student_folder), *TAUGHT_BY_ITSELF, *filled)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert problem in summary["error"]
    assert not (tmp_path / "deployment").exists()
    assert not (tmp_path / "model").exists()
