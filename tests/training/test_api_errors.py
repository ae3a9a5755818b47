"""What SparseTrainer refuses: one sentence in the words of its caller, and nothing lost."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_training import RECIPE, arguments, tokenized, trainer
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from sparsekit.config.arguments import as_arguments
from sparsekit.errors import UserError
from sparsekit.runs.folder import RunFolder
from sparsekit.training.arguments import SparseTrainingArguments

# A key of the launcher's config, whose groups are no names of the Python API.
CONFIG_KEY = re.compile(r"(?<![\w./])(training|dataset|student|export|runtime|hydra)\.\w+|=none\b")
BATCH = "per_device_train_batch_size"


@pytest.fixture(scope="module")
def tokenizer(student_folder: str) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(student_folder)


@pytest.fixture(scope="module")
def data(tokenizer: PreTrainedTokenizerBase) -> dict[str, Dataset]:
    return tokenized(tokenizer)


@pytest.fixture
def model(student_folder: str) -> PreTrainedModel:
    set_seed(1)
    return AutoModelForSequenceClassification.from_pretrained(student_folder, num_labels=2)


def without(*names: str) -> dict[str, Any]:
    """The recipe without these modifiers."""
    recipe = yaml.safe_load(RECIPE)
    for name in names:
        del recipe["modifiers"][name]
    return recipe


def budget(folder: Path) -> SparseTrainingArguments:
    return SparseTrainingArguments(
        str(folder),
        use_cpu=True,
        tokens_per_batch=5,
        train_sampling_strategy="group_by_length",
        report_to="none",
    )


CASES: list[tuple[Callable[[Path], dict[str, Any]], str]] = [
    (lambda folder: {"metrics": []}, "metrics is empty"),
    (lambda folder: {"metrics": ["acuracy"]}, "metrics: 'acuracy' is not known; did you mean"),
    (
        lambda folder: {"teacher": "self", "recipe": without("distillation")},
        'set teacher=None, or choose a recipe that distils, such as recipe="pruned90"',
    ),
    (
        lambda folder: {"teacher": "nobody/nothing"},
        "as in teacher=FOLDER",
    ),
    (
        lambda folder: {"args": arguments(folder, dataloader_drop_last=True, **{BATCH: 64})},
        f"args.dataloader_drop_last=True leaves no batch: .* a smaller args.{BATCH}",
    ),
    (
        lambda folder: {"args": budget(folder)},
        "args.tokens_per_batch is 5, and one row has .* or a lower max_length",
    ),
    (
        lambda folder: {
            "recipe": "pruned90_quant",
            "recipe_args": {"num_epochs": 1, "qat_epochs": 0.05},
        },
        r'recipe_args=\{"qat_epochs": [\d.]+\}\), or leave .* \(recipe_args=\{"qat_epochs": 0\}\)',
    ),
]


@pytest.mark.parametrize(("options", "message"), CASES, ids=[text for _, text in CASES])
def test_errors_name_arguments_not_config_keys(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: dict[str, Dataset],
    tmp_path: Path,
    options: Callable[[Path], dict[str, Any]],
    message: str,
) -> None:
    with pytest.raises(UserError, match=message) as raised:
        trainer(model, tokenizer, data, tmp_path, **options(tmp_path)).train()
    assert not CONFIG_KEY.search(str(raised.value)), raised.value


def test_a_dense_model_for_a_recipe_that_keeps_zeros(
    teacher_folder: str,
    tokenizer: PreTrainedTokenizerBase,
    data: dict[str, Dataset],
    tmp_path: Path,
) -> None:
    dense = AutoModelForSequenceClassification.from_pretrained(teacher_folder)
    with pytest.raises(UserError, match=r"prune it at load with sparsekit\.prune\(model, 0\.8\)"):
        trainer(dense, tokenizer, data, tmp_path)


def test_a_metric_that_the_split_cannot_have(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: dict[str, Dataset],
    tmp_path: Path,
) -> None:
    negative = data["eval_dataset"].filter(lambda row: row["label"] == 0)
    made = trainer(model, tokenizer, data, tmp_path, eval_dataset=negative, metrics="roc_auc")
    for call in (made.evaluate, lambda: (made.train(), made.save_model())):
        with pytest.raises(UserError, match=r"^metrics: roc_auc is undefined"):
            call()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_steps": 0}, "`max_steps` is 0"),
        ({"precision": "fp8"}, "`precision` 'fp8' is not one of auto"),
        ({"precision": "fp16", "use_cpu": True}, "`precision=fp16` needs a GPU; set `precision="),
        ({"fp16": True, "use_cpu": True}, "`fp16=true` needs a GPU; leave it out"),
        ({"bf16": True, "precision": "fp32"}, "`bf16=true` and a precision of fp32 disagree"),
        ({"bf16": True, "fp16": True}, "`fp16=true` and a precision of bf16 disagree"),
        ({"resume_from_checkpoint": "true"}, "`resume_from_checkpoint=true`, but there is no"),
        ({"tokens_per_batch": 512}, "`tokens_per_batch=512`: rows must be grouped; set `train_s"),
    ],
)
def test_arguments_name_their_own_fields(
    fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        SparseTrainingArguments(str(tmp_path), **fields)
    assert not CONFIG_KEY.search(str(raised.value)), raised.value


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("set recipe.qat_epochs=1, or 2", 'set recipe_args={"qat_epochs": 1}, or 2'),
        ("a module sparsekit.training.trainer", "a module sparsekit.training.trainer"),
        ("the file runs/export.yaml", "the file runs/export.yaml"),
        ("no folder 'training.v1'", "no folder 'training.v1'"),
        ("raise export.max_metric_drop", "raise max_metric_drop"),
        ("set export.verify=false", "set verify=False"),
        ("lower recipe.init_lr", "lower recipe.init_lr"),
        ("dataset.text_columns [] must name one", "text_columns [] must name one"),
    ],
)
def test_what_is_reworded(message: str, expected: str) -> None:
    assert as_arguments(message) == expected


def test_a_completed_run_is_replaced_only_when_asked(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: dict[str, Dataset],
    tmp_path: Path,
) -> None:
    args = arguments(tmp_path / "run", max_steps=1)
    first = trainer(model, tokenizer, data, tmp_path, args=args)
    first.train()
    first.save_model()
    run = RunFolder(tmp_path / "run")
    before = run.summary_file.read_bytes(), run.weights.read_bytes()
    with pytest.raises(UserError, match=r"holds a completed run, which .* pass overwrite=True"):
        trainer(model, tokenizer, data, tmp_path, args=args)
    assert (run.summary_file.read_bytes(), run.weights.read_bytes()) == before
    again = trainer(model, tokenizer, data, tmp_path, args=args, overwrite=True)
    again.train()
    again.save_model()
    assert run.ending.status == "completed"
    assert run.weights.read_bytes() != before[1]
