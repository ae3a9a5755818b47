"""What training on a CPU changes in torch, transformers and the model is undone at its end."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from compiler import needs_compiler
from datasets import Dataset
from tiny_training import LABELS, trainer
from torch import nn
from transformers import PreTrainedModel, TrainerCallback
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sparsekit.errors import UserError
from sparsekit.models.loading import Student
from sparsekit.recipe.recipe import Recipe
from sparsekit.tasks.text_classification import TextClassification
from sparsekit.training.cpu import attention
from sparsekit.training.cpu.dropout import BitDropout
from sparsekit.training.cpu.sparse_linear import MaskedLinear
from sparsekit.training.recipe_trainer import RecipeTrainer

TASK = TextClassification(max_length=64)

pytestmark = needs_compiler

PRUNING = {
    "_target_": "sparsekit.modifiers.pruning.constant.ConstantPruning",
    "params": r"re:.*\.layer\.\d+\..*(query|key|value|dense)\.weight",
}


class Interrupt(TrainerCallback):
    """Looks at the model in the second step, and stops training there with an error if told to."""

    def __init__(self, fails: bool) -> None:
        self.fails = fails
        self.seen: dict[str, Any] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        if state.global_step == 2:
            self.seen = changes(now["model"])
            if self.fails:
                raise InterruptedError


def changes(model: PreTrainedModel) -> dict[str, Any]:
    """Everything that training may have changed, and an untouched model has not."""
    modules = list(model.modules())
    table = model.get_input_embeddings()
    assert isinstance(table, nn.Embedding)
    return {
        "classes": {type(module) for module in modules} & {BitDropout, MaskedLinear},
        "module hooks": sum(
            len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules
        ),
        "gradient hooks": sum(len(p._backward_hooks or ()) for p in model.parameters()),
        "patterns": sum("pattern" in vars(module) for module in modules),
        "attention": model.config._attn_implementation,
        "attention functions": attention.NAME in ALL_ATTENTION_FUNCTIONS,
        "mask functions": attention.NAME in ALL_MASK_ATTENTION_FUNCTIONS,
        "sparse gradient": table.sparse,
        "matmul precision": torch.get_float32_matmul_precision(),
        "clip_grad_norm_": nn.utils.clip_grad_norm_,
    }


def train(
    folder: Path, model_folder: str, rows: dict[str, Dataset], fails: bool = False
) -> tuple[RecipeTrainer, Interrupt, dict[str, Any]]:
    """Returns what was changed before as well."""
    loaded = Student(checkpoint=model_folder).load(TASK, LABELS)
    recipe = Recipe.build({"num_epochs": 1, "modifiers": {"pruning": PRUNING}})
    watch = Interrupt(fails)
    before = changes(loaded.model)
    made = trainer(folder, loaded, rows, recipe, [watch], sparse_products="on")
    if fails:
        with pytest.raises(InterruptedError):
            made.train()
    else:
        made.train()
    return made, watch, before


@pytest.mark.parametrize("fails", [False, True], ids=["finished", "after an exception"])
def test_everything_is_as_it_was(
    fails: bool, tmp_path: Path, student_folder: str, rows: dict[str, Dataset]
) -> None:
    made, watch, before = train(tmp_path, student_folder, rows, fails)
    # What is compared did change.
    assert watch.seen["classes"] == {BitDropout, MaskedLinear}
    assert watch.seen["patterns"] > 0 and watch.seen["module hooks"] > before["module hooks"]
    assert watch.seen["attention"] == attention.NAME
    assert watch.seen["attention functions"] and watch.seen["mask functions"]
    assert watch.seen["sparse gradient"]
    assert isinstance(made.model, PreTrainedModel)
    assert changes(made.model) == before
    assert "clip_grad_norm_" not in vars(made.accelerator)


def test_a_trainer_alone_changes_nothing(
    tmp_path: Path, student_folder: str, rows: dict[str, Dataset]
) -> None:
    loaded = Student(checkpoint=student_folder).load(TASK, LABELS)
    recipe = Recipe.build({"num_epochs": 1, "modifiers": {}})
    before = changes(loaded.model)
    made = trainer(tmp_path, loaded, rows, recipe)
    assert changes(loaded.model) == before
    assert "clip_grad_norm_" not in vars(made.accelerator)


def test_a_second_training_in_one_process_repeats_the_first(
    tmp_path: Path, student_folder: str, rows: dict[str, Dataset]
) -> None:
    """Also after one that failed."""
    trained = []
    for name, fails in (("first", False), ("failed", True), ("second", False)):
        torch.manual_seed(0)
        made, _, _ = train(tmp_path / name, student_folder, rows, fails)
        trained.append([weight.clone() for weight in made.model.parameters()])
    first, failed, second = trained
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, failed, strict=True))


def test_a_trainer_trains_once(
    tmp_path: Path, student_folder: str, rows: dict[str, Dataset]
) -> None:
    """Its recipe is over; a second call changes nothing."""
    made, watch, before = train(tmp_path, student_folder, rows)
    watch.seen = {}
    with pytest.raises(UserError, match="make a new RecipeTrainer"):
        made.train()
    assert watch.seen == {}
    assert isinstance(made.model, PreTrainedModel)
    assert changes(made.model) == before
    norms = [entry["grad_norm"] for entry in made.state.log_history if "grad_norm" in entry]
    assert norms and all(norm > 0 for norm in norms)


# What a process of its own does: the heap of this one has free blocks of earlier tests.
FAULTS = """
import resource
import torch
from sparsekit.training.cpu.allocator import reuse_freed_memory

def faults(times=24, mebibytes=64):
    'Pages that the system had to map for tensors that are freed at once.'
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.empty(mebibytes * 2**18).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.empty(16 * 2**20).fill_(1)
"""


needs_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the memory that glibc's malloc reuses"
)


def printed_faults(script: str, **environment: str) -> list[int]:
    names = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
    plain = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS + script],
        env=plain | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(word) for word in done.stdout.split()]


@needs_glibc
def test_freed_memory_is_reused_within_the_context_alone() -> None:
    outside, inside, afterwards = printed_faults("""
outside = faults()
with reuse_freed_memory():
    with reuse_freed_memory():
        faults(1)
    # The inner context's end leaves the outer one's setting. The least of three: a small object may
    # be allocated where a tensor was freed.
    inside = min(faults() for _ in range(3))
# Larger than any block that was freed within: those are reused wherever they lie.
print(outside, inside, faults(3, 512))
""")
    assert inside < outside / 4
    assert afterwards > outside / 2


@needs_glibc
def test_thresholds_of_the_environment_stay() -> None:
    outside, inside = printed_faults(
        """
outside = faults()
with reuse_freed_memory():
    faults(1)
    print(outside, faults())
""",
        MALLOC_MMAP_THRESHOLD_="131072",
    )
    assert inside > outside / 2
