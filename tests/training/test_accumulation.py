"""Accumulated gradients: one effective batch trains the same, in however many parts it is read.

With distillation, masks and length grouping from the first step on. Quantizers observe each forward
pass and round by what they have observed by then, so while they observe, parts of a batch move
their ranges in smaller steps; once ranges are frozen, training is the same again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tagged
import torch
from datasets import Dataset
from tiny_training import load_student, make_rows, recipe, trainer

from sparsekit.data.collator import IGNORED
from sparsekit.models.loading import LoadedModel, load_for_task
from sparsekit.recipe.recipe import Recipe
from sparsekit.tasks.base import Task
from sparsekit.tasks.masked_lm import MaskedLM
from sparsekit.tasks.token_classification import TokenClassification

EFFECTIVE = 16


def frozen_from_epoch_2() -> Recipe:
    values = recipe(num_epochs=3, qat_start=1.0).values
    quantization = {**values["modifiers"]["quantization"], "disable_observer_epoch": 2.0}
    modifiers = {**values["modifiers"], "quantization": quantization}
    return Recipe.build({**values, "modifiers": modifiers})


def train(
    student_folder: str,
    folder: Path,
    parts: int,
    strategy: str,
    built: Recipe,
    resumed: Path | None = None,
    **arguments: Any,
) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """The weights, and the events of each optimizer step."""
    loaded = load_student(student_folder)
    made = trainer(
        folder,
        loaded,
        make_rows(loaded),
        built,
        seed=3,
        per_device_train_batch_size=EFFECTIVE // parts,
        gradient_accumulation_steps=parts,
        optim="sgd",
        train_sampling_strategy=strategy,
        **arguments,
    )
    made.train(resume_from_checkpoint=None if resumed is None else str(resumed))
    events = [event for event in made.state.log_history if "loss" in event]
    return dict(loaded.model.state_dict()), events


def test_a_step_without_labels_weighs_nothing(
    student: LoadedModel, rows: dict[str, Dataset], tmp_path: Path
) -> None:
    made = trainer(tmp_path, student, rows, recipe())
    made._step_batches, made._step_items = 2, 0
    assert made._weight(0, torch.device("cpu")) == 0.0
    made._step_items = 8
    assert made._weight(2, torch.device("cpu")) == 0.5
    made._step_items = torch.tensor(0)
    assert made._weight(torch.tensor(0), torch.device("cpu")) == 0.0
    made._step_items = torch.tensor(8)
    assert made._weight(torch.tensor(2), torch.device("cpu")) == 0.5


TAGGER = TokenClassification(max_length=64)


def tagger_rows(loaded: LoadedModel, unlabelled: Sequence[int]) -> Dataset:
    """70 sentences with a teacher's logits; the last batch of an epoch is smaller than others.

    unlabelled: the rows without any labelled token.
    """
    made = tagged.rows(70, seed=0)
    own = {
        "tokens": [row["tokens"] for row in made],
        "tags": [[tagged.NAMES.index(tag) for tag in row["tags"]] for row in made],
    }
    columns = TAGGER.tokenize(Dataset.from_dict(own), loaded.tokenizer)
    for row in unlabelled:
        columns["labels"][row] = [IGNORED] * len(columns["labels"][row])
    generator = torch.Generator().manual_seed(0)
    columns["teacher_logits"] = [
        torch.randn(sum(tag != IGNORED for tag in row), 4, generator=generator).tolist()
        for row in columns["labels"]
    ]
    return Dataset.from_dict(columns)


def train_tagger(
    student_folder: str, folder: Path, parts: int, unlabelled: Sequence[int] = ()
) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    torch.manual_seed(1)
    loaded, _ = load_for_task(Path(student_folder), TAGGER, tagged.NAMES)
    for module in loaded.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    rows = tagger_rows(loaded, unlabelled)
    made = trainer(
        folder,
        loaded,
        {"train": rows, "validation": rows},
        recipe(num_epochs=1, qat_start=None),
        task=TAGGER,
        seed=3,
        per_device_train_batch_size=EFFECTIVE // parts,
        gradient_accumulation_steps=parts,
        optim="sgd",
    )
    made.train()
    events = [event for event in made.state.log_history if "loss" in event]
    return dict(loaded.model.state_dict()), events


@pytest.mark.parametrize("task", [TAGGER, MaskedLM(max_length=64)], ids=lambda task: task.name)
def test_labelled_tokens_are_counted_without_waiting_for_the_device(
    tmp_path: Path, student: LoadedModel, rows: dict[str, Dataset], task: Task
) -> None:
    """Tensors on the meta device have no values: whoever looks at one gets an error."""
    made = trainer(tmp_path, student, rows, recipe(), task=task)
    device = torch.device("meta")
    labels = torch.full((4, 8), IGNORED, device=device)
    batches = iter([{"labels": labels}, {"labels": labels}])
    found, _ = made.get_batch_samples(batches, 2, device)
    assert len(found) == 2
    assert torch.as_tensor(made._weight(task.loss_items(labels), device)).device == device


def assert_same(
    whole: tuple[dict[str, torch.Tensor], list[dict[str, float]]],
    parts: tuple[dict[str, torch.Tensor], list[dict[str, float]]],
) -> None:
    assert [event["step"] for event in parts[1]] == [event["step"] for event in whole[1]]
    for one, other in zip(whole[1], parts[1], strict=True):
        for name in ("loss", "task_loss", "kd_loss", "grad_norm", "learning_rate"):
            assert other[name] == pytest.approx(one[name], abs=1e-6), (name, one["step"])
    for name, weight in whole[0].items():
        torch.testing.assert_close(parts[0][name], weight, rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_parts_of_a_batch_train_as_the_whole(
    tmp_path: Path, student_folder: str, strategy: str
) -> None:
    built = recipe(num_epochs=2, qat_start=None)
    whole = train(student_folder, tmp_path, 1, strategy, built)
    assert len(whole[1]) == 8
    for parts in (2, 4):
        same = train(student_folder, tmp_path, parts, strategy, recipe(qat_start=None))
        assert_same(whole, same)


def test_batches_of_different_numbers_of_labelled_tokens_weigh_by_them(
    tmp_path: Path, student_folder: str
) -> None:
    whole = train_tagger(student_folder, tmp_path, 1)
    assert len(whole[1]) == 5
    for parts in (2, 4):
        assert_same(whole, train_tagger(student_folder, tmp_path, parts))


def test_a_row_without_labels_counts_for_nothing_in_its_step(
    tmp_path: Path, student_folder: str
) -> None:
    """Alone in a batch its loss is a mean of nothing, NaN."""
    whole = train_tagger(student_folder, tmp_path, 1, unlabelled=[5, 40])
    assert_same(whole, train_tagger(student_folder, tmp_path, EFFECTIVE, unlabelled=[5, 40]))


def test_training_goes_on_after_a_step_without_labels(tmp_path: Path, student_folder: str) -> None:
    """Its loss is a mean of nothing, NaN, which is no divergence."""
    weights, events = train_tagger(student_folder, tmp_path, 1, unlabelled=range(70))
    assert [event["loss"] for event in events] == [0.0] * 5
    assert [event["grad_norm"] for event in events] == [0.0] * 5
    assert all(weight.isfinite().all() for weight in weights.values())


def test_quantized_training_is_the_same_once_ranges_are_frozen(
    tmp_path: Path, student_folder: str
) -> None:
    saving = {"save_strategy": "steps", "save_steps": 8}
    strategy = "group_by_length"
    whole = train(student_folder, tmp_path, 1, strategy, frozen_from_epoch_2(), **saving)
    for parts in (2, 4):
        same = train(
            *(student_folder, tmp_path, parts, strategy, frozen_from_epoch_2()),
            resumed=tmp_path / "checkpoint-8",
        )
        assert_same(whole, same)
