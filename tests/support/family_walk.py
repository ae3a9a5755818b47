"""One family through everything that sparsekit does, step by step: what works, and what refuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hub_seed
import numpy as np
import torch
from datasets import Dataset
from families import Family, write_checkpoint
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, TrainingArguments

import sparsekit
from sparsekit.errors import UserError
from sparsekit.models.loading import Student, read_config
from sparsekit.models.pruning import sparsity
from sparsekit.oneshot.in_memory import prune
from sparsekit.onnx.preflight import export_problem
from sparsekit.pipeline.verification import verify_run
from sparsekit.runs.folder import RunFolder
from sparsekit.runtime.answers import predict
from sparsekit.runtime.openvino import OpenVinoRuntime
from sparsekit.runtime.sparse.runtime import SparseRuntime
from sparsekit.tasks.text_classification import TextClassification
from sparsekit.training.trainer import SparseTrainer

LABELS = ["neg", "pos"]
MAX_LENGTH = 64
TASK = TextClassification(max_length=MAX_LENGTH)
STEPS = 4
SPARSITY = 0.8
# The steps of the walk, in order: the columns of the table.
COLUMNS = ("prune", "obs", "wanda", "train", "reload", "export", "openvino", "sparse", "verify")

RECIPE: dict[str, Any] = {
    "num_epochs": 1,
    "modifiers": {
        "learning_rate": {
            "_target_": "sparsekit.modifiers.optimizer.LearningRateFunction",
            **{"init_lr": 1e-3, "final_lr": 1e-4},
        },
        "pruning": {"_target_": "sparsekit.modifiers.pruning.constant.ConstantPruning"},
        "distillation": {
            "_target_": "sparsekit.modifiers.distillation.logits.Distillation",
            "hardness": 0.5,
        },
        "quantization": {
            "_target_": "sparsekit.modifiers.quantization.qat.Quantization",
            "exclude_module_types": ["LayerNorm", "Tanh"],
            "disable_observer_epoch": 0.7,
        },
    },
}


@dataclass
class Walk:
    """The outcome of each step, "works" or the sentence that refused it, and of the export."""

    cells: dict[str, str] = field(default_factory=dict)
    exported: Mapping[str, Any] = field(default_factory=dict)


def walk(family: Family, teacher: str, folder: Path) -> Walk:
    """Take `family` through the steps.

    A refusal is a UserError; any other exception is a fault, and is raised. Steps that need the
    result of a refused one are left out: "-".
    """
    checkpoint = str(write_checkpoint(family, folder / "checkpoint"))
    result = Walk()
    if (problem := export_problem(read_config(Path(checkpoint)))) is not None:
        result.cells["export"] = problem
    step = _stepper(result)
    step("prune", lambda: _pruned(checkpoint))
    for method in ("obs", "wanda"):
        step(method, lambda method=method: _one_shot(method, checkpoint))
    run = step("train", lambda: _trained(checkpoint, teacher, folder / "run"))
    step("reload", lambda: _reloaded(folder / "run"), run)
    exported = step("export", lambda: sparsekit.export(folder / "run", max_metric_drop=0.2), run)
    deployment = folder / "run" / "deployment"
    for name, kind in (("openvino", OpenVinoRuntime), ("sparse", SparseRuntime)):
        step(name, lambda kind=kind: _same_answers(deployment, kind), exported)
    finished = RunFolder(folder / "run")
    step("verify", lambda: verify_run(finished, finished.summary), exported)
    result.exported = exported or {}
    return result


def _stepper(result: Walk) -> Callable[..., Any]:
    def step(name: str, act: Callable[[], Any], needs: Any = True) -> Any:
        if needs is None or name in result.cells:
            result.cells.setdefault(name, "-")
            return None
        try:
            value = act()
        except UserError as error:
            result.cells[name] = str(error)
            return None
        result.cells[name] = "works"
        return True if value is None else value

    return step


def _pruned(checkpoint: str) -> None:
    torch.manual_seed(0)
    model = Student(checkpoint=checkpoint, sparsity=SPARSITY).load(TASK, LABELS).model
    assert abs(sparsity(model)["overall"] - SPARSITY) < 2e-2


def _rows(start: int, end: int, tokenizer: Any) -> Dataset:
    rows = Dataset.from_list(hub_seed.reviews(160, seed=0)[start:end])
    return rows.map(lambda row: tokenizer(row["text"], truncation=True, max_length=MAX_LENGTH))


def _one_shot(method: str, checkpoint: str) -> None:
    loaded = Student(checkpoint=checkpoint).load(TASK, LABELS)
    rows = _rows(0, 16, loaded.tokenizer)
    settings = {"rows": 16} if method == "wanda" else {"num_grads": 8}
    prune(
        *(loaded.model, SPARSITY),
        method=method,
        train_dataset=rows,
        processing_class=loaded.tokenizer,
        **settings,
    )


def _trained(checkpoint: str, teacher: str, folder: Path) -> None:
    loaded = Student(checkpoint=checkpoint, sparsity=SPARSITY).load(TASK, LABELS)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=8,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = SparseTrainer(
        loaded.model,
        RECIPE,
        teacher=teacher,
        args=arguments,
        train_dataset=_rows(0, 64, loaded.tokenizer),
        eval_dataset=_rows(64, 96, loaded.tokenizer),
        processing_class=loaded.tokenizer,
    )
    trainer.train()
    trainer.save_model()


def _reloaded(folder: Path) -> None:
    """Plain transformers reads the weights, every one of them, as they were saved."""
    saved = load_file(folder / "model" / "model.safetensors")
    model, info = AutoModelForSequenceClassification.from_pretrained(
        folder / "model", output_loading_info=True
    )
    assert not info["missing_keys"], info["missing_keys"]
    assert all("_quantizer." in name for name in info["unexpected_keys"])
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, saved[name]), name


def _same_answers(deployment: Path, kind: Any) -> None:
    assert kind.missing() is None, kind.missing()
    texts = [str(row["text"]) for row in hub_seed.reviews(8, seed=1)]
    expected, answers = predict(deployment, texts), predict(deployment, texts, kind=kind)
    probabilities = [
        np.array([list(answer["scores"].values()) for answer in each])
        for each in (expected, answers)
    ]
    assert np.abs(probabilities[0] - probabilities[1]).max() < 0.05
