"""SparseTrainer as a user of a notebook calls it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from api_training import RECIPE, arguments, tokenized, trainer
from datasets import ClassLabel, Dataset
from launching import run_here
from safetensors.torch import load_file
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from sparsekit.compare.load import load
from sparsekit.errors import ConfigError, UserError
from sparsekit.models.pruning import sparsity
from sparsekit.oneshot.in_memory import prune
from sparsekit.recipe.recipe import Recipe
from sparsekit.runs.folder import RunFolder
from sparsekit.training.arguments import SparseTrainingArguments
from sparsekit.training.divergence import rows_of
from sparsekit.training.trainer import SparseTrainer


@pytest.fixture
def model(student_folder: str) -> PreTrainedModel:
    set_seed(1)
    return AutoModelForSequenceClassification.from_pretrained(student_folder, num_labels=2)


@pytest.fixture(scope="module")
def tokenizer(student_folder: str) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(student_folder)


@pytest.fixture(scope="module")
def data(tokenizer: PreTrainedTokenizerBase) -> dict[str, Dataset]:
    return tokenized(tokenizer)


def test_a_run_of_the_api_is_a_run_folder(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: dict[str, Dataset],
    teacher_folder: str,
    tmp_path: Path,
) -> None:
    made = trainer(model, tokenizer, data, tmp_path / "run", teacher=teacher_folder)
    result = made.train()
    assert result.global_step == 6  # 24 rows in batches of 8, two epochs
    made.save_model()

    run = RunFolder(tmp_path / "run")
    summary = run.summary
    assert summary["status"] == "completed"
    assert summary["train"]["steps"] == 6
    assert summary["sparsity"]["overall"] == pytest.approx(0.9, abs=0.01)
    assert summary["metrics"]["validation"].keys() == {"accuracy"}
    assert summary["teacher"]["validation"].keys() == {"accuracy"}
    assert run.text_columns == ["text"]
    assert json.loads(run.schedule.read_text())["total_steps"] == 6
    assert "loss" in run.metrics.read_text()
    assert Recipe.load(run.model_recipe).num_epochs == 2

    saved = AutoModelForSequenceClassification.from_pretrained(run.model)
    assert sparsity(saved) == sparsity(model)
    assert saved.config.id2label == {0: "neg", 1: "pos"}
    for name, weight in saved.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name]), name
    assert len(AutoTokenizer.from_pretrained(run.model)) == len(tokenizer)


def test_runs_of_other_weights_or_rows_are_compared(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: dict[str, Dataset],
    teacher_folder: str,
    tmp_path: Path,
) -> None:
    """The config is the same: what is given in memory tells the runs apart."""
    fewer = {**data, "train_dataset": data["train_dataset"].select([*range(23), 22])}
    shown = []
    for name, rows, share in (
        ("a", data, 0.92),
        ("b", data, 0.95),
        ("c", fewer, 0.95),
        ("d", data, 0.95),
    ):
        student = prune(copy.deepcopy(model), share)
        args = arguments(tmp_path / name, max_steps=1)
        made = trainer(student, tokenizer, rows, tmp_path / name, args=args, teacher=teacher_folder)
        made.train()
        shown.append(RunFolder(tmp_path / name).summary["config"])
    a, b, c, d = shown
    assert a["hash"] == b["hash"] and {"rows", "weights", "models"} <= a.keys()
    assert a["weights"]["layers"] != b["weights"]["layers"] and b["rows"] != c["rows"]
    assert b == d
    assert [run.folder.name for run in load([tmp_path])] == ["a", "c", "d"]


# What can be given


def test_each_form_of_a_recipe(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: dict[str, Dataset],
    tmp_path: Path,
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE)
    given = Recipe.from_text(RECIPE)
    forms: list[Any] = [RECIPE, file, str(file), yaml.safe_load(RECIPE), given]
    for index, form in enumerate(forms):
        made = trainer(model, tokenizer, data, tmp_path / str(index), recipe=form)
        assert made.recipe.values == given.values
        assert made.recipe is not given
        assert made.args.num_train_epochs == 2
        # Without a teacher the task's loss counts alone.
        assert list(made.recipe.modifiers) == ["learning_rate", "pruning"]
        assert list(made.recipe.without_teacher) == ["distillation"]


def test_variables_of_the_recipe(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: dict[str, Dataset],
    tmp_path: Path,
) -> None:
    made = trainer(model, tokenizer, data, tmp_path / "run", recipe_args={"num_epochs": 3})
    assert made.recipe.num_epochs == made.args.num_train_epochs == 3
    with pytest.raises(UserError, match="recipe_args num_epochs cannot be set in a Recipe"):
        recipe = Recipe.from_text(RECIPE)
        trainer(model, tokenizer, data, tmp_path, recipe=recipe, recipe_args={"num_epochs": 3})
    with pytest.raises(
        ConfigError,
        match=r"recipe\.qat_epochs \(now 5\), .* at most 3: recipe_args=\{\"qat_epochs\": 1\}",
    ):
        trainer(
            model, tokenizer, data, tmp_path, recipe="pruned90_quant", recipe_args={"num_epochs": 3}
        )


def test_each_form_of_a_teacher(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: dict[str, Dataset],
    teacher_folder: str,
    tmp_path: Path,
) -> None:
    dense = AutoModelForSequenceClassification.from_pretrained(teacher_folder)
    forms: list[Any] = [teacher_folder, Path(teacher_folder), dense, [dense], "self"]
    columns = []
    for index, form in enumerate(forms):
        made = trainer(model, tokenizer, data, tmp_path / str(index), teacher=form)
        assert "distillation" in made.recipe.modifiers
        columns.append(torch.tensor(made.train_dataset["teacher_logits"][:]))
    assert all(torch.equal(column, columns[0]) for column in columns[:4])
    assert not torch.equal(columns[4], columns[0])


def test_plain_and_own_arguments(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: dict[str, Dataset],
    tmp_path: Path,
) -> None:
    plain = arguments(tmp_path / "a", gradient_accumulation_steps=2, eval_strategy="epoch", seed=7)
    own = SparseTrainingArguments(str(tmp_path / "b"), use_cpu=True, precision="fp32")
    made = trainer(model, tokenizer, data, tmp_path, args=plain)
    assert isinstance(made.args, SparseTrainingArguments)
    assert (made.args.gradient_accumulation_steps, made.args.seed) == (2, 7)
    assert made.args.eval_strategy == "epoch"
    assert made.args.precision in ("fp32", "bf16")
    assert made.args.output_dir == str(tmp_path / "a" / "checkpoints")
    assert trainer(model, tokenizer, data, tmp_path, args=own).args.precision == "fp32"
    # The user's own objects stay as they are.
    assert plain.output_dir == str(tmp_path / "a")
    assert own.num_train_epochs == 3.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_train_epochs": 5},
            r"num_train_epochs=5\) has no effect.*num_epochs \(now 2\).*'num_epochs': 5",
        ),
        (
            {"learning_rate": 0.1},
            r"learning_rate=0\.1\) has no effect.*recipe\.init_lr \(now 0.*'init_lr': 0\.1",
        ),
        (
            {"warmup_steps": 5},
            r"warmup_steps=5\) has no effect.*take that modifier out of the recipe",
        ),
        ({"lr_scheduler_type": "cosine"}, r"set recipe\.modifiers\.learning_rate\.lr_func$"),
        ({"eval_strategy": "epoch", "no_eval": True}, "eval_dataset is not set"),
    ],
)
def test_arguments_without_effect(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: dict[str, Dataset],
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
) -> None:
    no_eval = {"eval_dataset": None} if changes.pop("no_eval", False) else {}
    args = arguments(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        trainer(model, tokenizer, data, tmp_path, args=args, **no_eval)


def test_what_does_not_fit_is_said_in_one_sentence(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: dict[str, Dataset],
    student_folder: str,
    teacher_folder: str,
    tmp_path: Path,
) -> None:
    no_distillation = yaml.safe_load(RECIPE)
    del no_distillation["modifiers"]["distillation"]
    unlabelled = data["train_dataset"].remove_columns("label")
    swapped = data["train_dataset"].cast_column("label", ClassLabel(names=["neg", "pos"]))
    other_order = ClassLabel(names=["pos", "neg"])
    named = AutoModelForSequenceClassification.from_pretrained(
        student_folder, id2label={0: "pos", 1: "neg"}, label2id={"pos": 0, "neg": 1}
    )
    three = AutoModelForSequenceClassification.from_pretrained(student_folder, num_labels=3)
    masked = AutoModelForMaskedLM.from_pretrained(student_folder)
    scores = AutoModelForSequenceClassification.from_pretrained(student_folder, num_labels=1)
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (model, {"teacher": "self", "recipe": no_distillation}, "no modifier that distils"),
        (model, {"train_dataset": unlabelled}, "train_dataset has no column labels"),
        (model, {"train_dataset": None}, "train_dataset is not set"),
        (model, {"processing_class": None}, "processing_class is not set"),
        (model, {"recipe": 3}, "recipe is of type int"),
        (model, {"metrics": ["acuracy"]}, "did you mean accuracy"),
        (
            model,
            {"eval_dataset": data["eval_dataset"].cast_column("label", other_order)},
            "eval_dataset numbers its labels pos, neg, train_dataset neg, pos",
        ),
        (named, {"train_dataset": swapped}, "numbers its labels neg, pos, the model pos, neg"),
        (three, {}, r"has 2 labels \(neg, pos\), the model 3; load the model with num_labels=2"),
        (
            masked,
            {},
            "the model is a BertForMaskedLM, which is not trained for text class",
        ),
        (scores, {}, r"the model is for regression \(1 labels\)"),
    ]
    for given, options, message in cases:
        with pytest.raises(UserError, match=message):
            trainer(given, tokenizer, data, tmp_path / "run", **options)
    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match=r"holds model, which no run wrote.*output_dir=FOLDER"):
        trainer(model, tokenizer, data, tmp_path)


# What Trainer does, this one does


class Stop(TrainerCallback):
    """Stops as a signal does, after the first epoch's checkpoint."""

    def on_save(self, *_: Any, **__: Any) -> None:
        raise KeyboardInterrupt


def test_an_interrupted_run_resumes_to_the_same_weights(
    student_folder: str,
    tokenizer: PreTrainedTokenizerBase,
    data: dict[str, Dataset],
    tmp_path: Path,
) -> None:
    def fresh(folder: Path, **options: Any) -> SparseTrainer:
        set_seed(1)
        loaded = AutoModelForSequenceClassification.from_pretrained(student_folder, num_labels=2)
        args = arguments(folder, save_strategy="epoch")
        return trainer(loaded, tokenizer, data, folder, args=args, **options)

    whole = fresh(tmp_path / "whole")
    whole.train()
    with pytest.raises(UserError, match="there is no whole checkpoint in"):
        fresh(tmp_path / "cut").train(resume_from_checkpoint=True)
    with pytest.raises(KeyboardInterrupt):
        fresh(tmp_path / "cut", callbacks=[Stop()]).train()
    assert RunFolder(tmp_path / "cut").ending.status == "failed"
    resumed = fresh(tmp_path / "cut")
    resumed.train(resume_from_checkpoint=True)
    resumed.save_model()
    assert RunFolder(tmp_path / "cut").ending.status == "completed"
    weights = load_file(RunFolder(tmp_path / "cut").weights)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, weights[name]), name


def test_the_arguments_say_which_checkpoint_a_run_resumes_from(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: dict[str, Dataset],
    tmp_path: Path,
) -> None:
    """Also one whose epoch lies behind transformers' default number of epochs."""
    recipe = {**yaml.safe_load(RECIPE), "num_epochs": 4}
    started: list[int] = []

    class Start(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            started.append(state.global_step)

    def run(resume: str | None, told: bool | None = None) -> None:
        settings: dict[str, Any] = {"use_cpu": True, "save_strategy": "epoch", "report_to": "none"}
        args = SparseTrainingArguments(str(tmp_path), resume_from_checkpoint=resume, **settings)
        options: dict[str, Any] = {"recipe": recipe, "args": args, "callbacks": [Start()]}
        trainer(model, tokenizer, data, tmp_path, overwrite=True, **options).train(told)

    run("auto")
    assert started == [0]
    run("auto")
    run(str(tmp_path / "checkpoints" / "checkpoint-6"))
    run("auto", told=False)
    assert started == [0, 12, 6, 0]


def test_a_token_is_in_no_file_of_a_run(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: dict[str, Dataset],
    tmp_path: Path,
) -> None:
    args = arguments(tmp_path / "run", hub_token="hf_planted0token", save_strategy="epoch")
    made = trainer(model, tokenizer, data, tmp_path, args=args)
    made.train()
    made.save_model()
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {"config.yaml", "sparsekit.json", "training_args.bin"} <= {path.name for path in files}
    for path in files:
        assert b"hf_planted0token" not in path.read_bytes(), path
    assert made.args.hub_token == "hf_planted0token"


def test_a_checkpoint_of_other_settings_or_rows_is_refused(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: dict[str, Dataset],
    tmp_path: Path,
) -> None:
    settings: dict[str, Any] = {"use_cpu": True, "save_strategy": "epoch", "logging_steps": 1}

    def resume(rows: dict[str, Dataset], **changes: Any) -> None:
        args = SparseTrainingArguments(str(tmp_path), **settings, **changes)
        trainer(model, tokenizer, rows, tmp_path, args=args).train(resume_from_checkpoint=True)

    args = SparseTrainingArguments(str(tmp_path), **settings)
    with pytest.raises(KeyboardInterrupt):
        trainer(model, tokenizer, data, tmp_path, args=args, callbacks=[Stop()]).train()
    events = (tmp_path / "metrics.jsonl").read_text()
    with pytest.raises(ConfigError, match=r"args\.seed was not set and is now 7"):
        resume(data, seed=7)
    fewer = {**data, "train_dataset": data["train_dataset"].select(range(23))}
    with pytest.raises(ConfigError, match="training rows was"):
        resume(fewer)
    assert (tmp_path / "metrics.jsonl").read_text() == events
    resume(fewer, resume_despite_changes=True)


def test_metrics_of_ones_own_and_other_data(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: dict[str, Dataset],
    tmp_path: Path,
) -> None:
    steps: list[int] = []

    class Count(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            steps.append(state.global_step)

    made = trainer(
        model,
        tokenizer,
        data,
        tmp_path,
        compute_metrics=lambda prediction: {"rows": float(len(prediction.label_ids))},
        callbacks=[Count()],
        args=arguments(tmp_path, max_steps=2),
    )
    with pytest.raises(UserError, match=r"call train\(\) first"):
        made.save_model()
    made.train()
    assert steps == [1, 2]
    assert made.evaluate()["eval_rows"] == 16
    assert made.evaluate(data["train_dataset"].select(range(5)))["eval_rows"] == 5
    unlabelled = data["eval_dataset"].remove_columns(["label"])
    assert made.predict(unlabelled).predictions.shape == (16, 2)
    with pytest.raises(UserError, match="make a new SparseTrainer"):
        made.train()


# The launcher does the same


def test_the_launcher_and_the_api_end_with_the_same_bits(
    csv_files: dict[str, str], student_folder: str, teacher_folder: str, tmp_path: Path
) -> None:
    launched = run_here(
        tmp_path / "launched",
        *(f"dataset.data_files.{split}={path}" for split, path in csv_files.items()),
        "dataset=csv",
        f"student.checkpoint={student_folder}",
        "teacher=checkpoint",
        f"teacher.checkpoint={teacher_folder}",
        "recipe.num_epochs=2",
        "recipe.qat_epochs=1",
        "training.per_device_train_batch_size=8",
        "export=none",
        "runtime=none",
    )

    tokenizer = AutoTokenizer.from_pretrained(student_folder)
    splits = {
        split: Dataset.from_csv(csv_files[split])
        .cast_column("label", ClassLabel(names=["0", "1"]))
        .map(lambda rows: tokenizer(rows["text"], truncation=True, max_length=128), batched=True)
        for split in ("train", "validation")
    }
    set_seed(42)
    made = SparseTrainer(
        AutoModelForSequenceClassification.from_pretrained(student_folder, num_labels=2),
        "pruned90_quant",
        recipe_args={"num_epochs": 2, "qat_epochs": 1},
        teacher=teacher_folder,
        args=TrainingArguments(
            str(tmp_path / "called"),
            per_device_train_batch_size=8,
            train_sampling_strategy="group_by_length",
            eval_strategy="epoch",
            seed=42,
        ),
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        processing_class=tokenizer,
    )
    made.train()
    made.save_model()

    expected, called = RunFolder(tmp_path / "launched"), RunFolder(tmp_path / "called")
    weights, theirs = load_file(called.weights), load_file(expected.weights)
    assert weights.keys() == theirs.keys()
    for name, weight in weights.items():
        assert torch.equal(weight, theirs[name]), name
    for part in ("sparsity", "quantization", "teacher"):
        assert called.summary[part] == launched[part]
    assert called.summary["metrics"]["validation"] == launched["metrics"]["validation"]
    assert called.schedule.read_text() == expected.schedule.read_text()


def test_the_recipe_sets_the_rate_of_ones_own_optimizer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: dict[str, Dataset],
    tmp_path: Path,
) -> None:
    recipe = {
        "num_epochs": 1,
        "modifiers": {
            "rate": {
                "_target_": "sparsekit.modifiers.optimizer.SetLearningRate",
                "learning_rate": 1e-4,
            }
        },
    }
    body, head = list(model.bert.parameters()), list(model.classifier.parameters())
    groups = [{"params": body, "lr": 1e-3}, {"params": head, "lr": 5e-2}]
    own = torch.optim.AdamW(groups)
    options: dict[str, Any] = {"recipe": recipe, "optimizers": (own, None)}
    made = trainer(model, tokenizer, data, tmp_path / "run", **options)
    rates: list[list[float]] = []

    class Rates(TrainerCallback):
        def on_step_begin(self, *_: Any, **options: Any) -> None:
            rates.append([group["lr"] for group in options["optimizer"].param_groups])

    made.add_callback(Rates())
    made.train()
    assert rates == [pytest.approx([1e-4, 1e-4])] * 3
    own = torch.optim.AdamW(model.parameters(), lr=0.0)
    options = {"recipe": recipe, "optimizers": (own, None)}
    with pytest.raises(UserError, match="parameter group 0 has the learning rate 0"):
        trainer(model, tokenizer, data, tmp_path / "none", **options).train()


def test_an_optimizer_of_ones_own_learns_what_the_recipe_adds(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: dict[str, Dataset],
    tmp_path: Path,
) -> None:
    hidden = {
        "_target_": "sparsekit.modifiers.distillation.layers.PerLayerDistillation",
        "gain": 1.0,
        "student_layer_names": ["__LAYERS__"],
    }
    own = torch.optim.AdamW(model.parameters(), lr=1e-2)
    options: dict[str, Any] = {
        "recipe": {"num_epochs": 1, "modifiers": {"hidden": hidden}},
        "teacher": "self",
    }
    made = trainer(model, tokenizer, data, tmp_path / "run", optimizers=(own, None), **options)
    added = dict(made._added)
    before = {name: parameter.detach().clone() for name, parameter in added.items()}
    assert before
    made.train()
    assert not any(torch.equal(added[name], value) for name, value in before.items())
    # A scheduler that was made for the optimizer's groups has no rate for another one.
    own = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.ConstantLR(own)
    made = trainer(model, tokenizer, data, tmp_path / "two", optimizers=(own, schedule), **options)
    with pytest.raises(UserError, match=r"adds .* to the model, .*pass \(optimizer, None\)"):
        made.train()


def test_a_collator_may_leave_out_the_mask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: dict[str, Dataset],
    tmp_path: Path,
) -> None:
    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        shortest = min(len(row["input_ids"]) for row in rows)
        ids = [row["input_ids"][:shortest] for row in rows]
        return {
            "input_ids": torch.tensor(ids),
            "labels": torch.tensor([row["labels"] for row in rows]),
        }

    made = trainer(model, tokenizer, data, tmp_path / "run", data_collator=collate)
    assert made.train().global_step == 6
    rows = data["train_dataset"]
    assert rows_of({"input_ids": torch.tensor([rows[1]["input_ids"]])}, rows) == [1]
