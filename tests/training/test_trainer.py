"""The trainer on a tiny model: what it optimizes, what it keeps, and that it resumes exactly."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny_training import LABELS, TASK, load_student, make_rows, recipe, trainer
from transformers import TrainerCallback

from sparsekit.errors import ConfigError, UserError
from sparsekit.models.loading import LoadedModel, Student
from sparsekit.models.predict import predict_outputs
from sparsekit.models.pruning import sparsity
from sparsekit.modifiers.quantization.fake_quantize import unseen
from sparsekit.recipe.recipe import Recipe
from sparsekit.runs.folder import RunFolder
from sparsekit.training.arguments import SparseTrainingArguments
from sparsekit.training.callbacks import assert_masks
from sparsekit.training.cpu.precision import matmul_precision
from sparsekit.training.record import record_model, write_schedule
from sparsekit.training.resume import past_the_end

MODIFIERS = "sparsekit.modifiers"


def test_masks_hold_and_the_rate_follows_the_recipe(
    tmp_path: Path, student: LoadedModel, rows: dict[str, Dataset]
) -> None:
    before = {n: p.detach() == 0 for n, p in student.model.named_parameters() if "encoder" in n}
    run = trainer(tmp_path, student, rows, recipe())
    run.train()
    for name, zeros in before.items():
        if name.endswith("weight") and zeros.any():
            assert torch.equal(student.model.get_parameter(name) == 0, zeros), name
    logged = [entry for entry in run.state.log_history if "loss" in entry]
    assert len(logged) == 16
    rates = [entry["learning_rate"] for entry in logged]
    assert rates == pytest.approx([0.01 * (1 - step / 16) for step in range(16)], abs=1e-7)
    assert all(entry["sparsity"] == logged[0]["sparsity"] for entry in logged)
    assert [entry["quantizers_on"] for entry in logged] == [0.0] * 8 + [1.0] * 8
    assert [entry["observers_on"] for entry in logged[8:]] == [1.0] * 6 + [0.0] * 2
    assert all(group["weight_decay"] == 0.25 for group in run.optimizer.param_groups)


def test_the_weight_decay_follows_the_recipe(
    tmp_path: Path, student: LoadedModel, rows: dict[str, Dataset]
) -> None:
    decay = {"_target_": f"{MODIFIERS}.optimizer.SetWeightDecay"}
    made = Recipe.build(
        {
            "num_epochs": 2,
            "modifiers": {
                "first": {**decay, "start": 0.5, "weight_decay": 0.25},
                "then": {**decay, "start": 1.0, "end": 1.5, "weight_decay": 0.125},
                "last": {**decay, "start": 1.75, "weight_decay": 0.0},
            },
        }
    )
    assert made.problems() == []
    run = trainer(tmp_path, student, rows, made, weight_decay=0.5)
    seen: list[set[float]] = []

    class Watch(TrainerCallback):
        def on_optimizer_step(self, args: Any, state: Any, control: Any, **now: Any) -> None:
            seen.append({group["weight_decay"] for group in now["optimizer"].param_groups})

    run.add_callback(Watch())
    run.train()
    # Biases have no decay of their own; after a window that ends, an earlier one holds again.
    own = [{0.5, 0.0}] * 4
    assert seen == own + [{0.25}] * 4 + [{0.125}] * 4 + [{0.25}] * 2 + [{0.0}] * 2


def test_labels_can_be_smoothed(
    tmp_path: Path, student: LoadedModel, rows: dict[str, Dataset]
) -> None:
    labels = torch.tensor(rows["train"]["labels"])
    logits = torch.tensor(
        predict_outputs(student.model, TASK, rows["train"], student.tokenizer)["logits"]
    )
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.2)
    whole = {"per_device_train_batch_size": 64, "max_steps": 1, "eval_strategy": "steps"}
    run = trainer(tmp_path, student, rows, recipe(), label_smoothing_factor=0.2, **whole)
    run.train()
    first = run.state.log_history[0]
    assert first["task_loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert first["loss"] == pytest.approx((first["task_loss"] + first["kd_loss"]) / 2, abs=1e-3)


def test_a_batch_larger_than_the_data_that_is_dropped(
    tmp_path: Path, student: LoadedModel, rows: dict[str, Dataset]
) -> None:
    large = {"per_device_train_batch_size": 65, "dataloader_drop_last": True}
    run = trainer(tmp_path, student, rows, recipe(), **large)
    with pytest.raises(UserError, match=r"leaves no batch: there are 64 training rows, fewer.* 65"):
        run.train()


@pytest.mark.parametrize("hardness", [0.0, 0.25, 1.0])
def test_the_logged_losses_add_up(
    tmp_path: Path, student: LoadedModel, rows: dict[str, Dataset], hardness: float
) -> None:
    run = trainer(tmp_path, student, rows, recipe(hardness=hardness), max_steps=3)
    run.train()
    for entry in run.state.log_history[:3]:
        kd = entry.get("kd_loss", 0.0)
        assert (kd > 0) == (hardness > 0)
        mixed = (1 - hardness) * entry["task_loss"] + hardness * kd
        assert entry["loss"] == pytest.approx(mixed, abs=2e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "default::DeprecationWarning"
)  # torch's compiler calls its own old parts
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_model_learns_the_same(
    tmp_path: Path, student_folder: str, rows: dict[str, Dataset], precision: str
) -> None:
    losses = []
    for compiled in (False, True):
        loaded = load_student(student_folder)
        # A rate so low that rounding differences do not grow.
        made = recipe(num_epochs=1, qat_start=0.5, init_lr=1e-3)
        run = trainer(tmp_path, loaded, rows, made, precision=precision, torch_compile=compiled)
        run.train()
        assert_masks(made, dict(loaded.model.named_parameters()), "after a compiled run")
        losses.append([entry["loss"] for entry in run.state.log_history if "loss" in entry])
    assert len(losses[0]) == 8
    assert losses[1][:4] == pytest.approx(losses[0][:4], rel=1e-3)
    # In QAT a last bit of difference may round a value to the next integer.
    assert losses[1][4:] == pytest.approx(losses[0][4:], rel=0.03)


def test_it_learns(tmp_path: Path, teacher_folder: str, rows: dict[str, Dataset]) -> None:
    torch.manual_seed(1)
    student = Student(checkpoint=teacher_folder, sparsity=0.5).load(TASK, LABELS)
    run = trainer(tmp_path, student, rows, recipe(num_epochs=20, qat_start=18.0, init_lr=0.003))
    run.train()
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    assert sum(losses[-8:]) < 0.5 * sum(losses[:8])


class Gradients(TrainerCallback):
    """Keeps the norm of the gradient of each optimizer step."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        gradients = [p.grad for p in now["model"].parameters() if p.grad is not None]
        self.norms.append(torch.nn.utils.get_total_norm(gradients).item())


@pytest.mark.parametrize("accumulation", [2, 4])
def test_accumulated_gradients_are_those_of_the_whole_batch(
    tmp_path: Path, student_folder: str, rows: dict[str, Dataset], accumulation: int
) -> None:
    norms = []
    for steps in (1, accumulation):
        loaded = load_student(student_folder)
        seen = Gradients()
        run = trainer(
            tmp_path,
            loaded,
            rows,
            recipe(num_epochs=1, qat_start=None),
            [seen],
            per_device_train_batch_size=8 // steps,
            gradient_accumulation_steps=steps,
            max_grad_norm=0.0,
            train_sampling_strategy="sequential",
        )
        run.train()
        norms.append(seen.norms)
    assert len(norms[0]) == len(norms[1]) == 8
    assert norms[0][0] == pytest.approx(norms[1][0], rel=1e-4)


class Stop(TrainerCallback):
    """Ends training after so many steps, as a crash would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step == self.step


SAMPLING: dict[str, dict[str, Any]] = {
    "random": {"train_sampling_strategy": "random"},
    "by-length": {"train_sampling_strategy": "group_by_length"},
    "by-tokens": {"train_sampling_strategy": "group_by_length", "tokens_per_batch": 100},
}
Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module", params=SAMPLING)
def resumable(request: pytest.FixtureRequest, student_folder: str) -> Run:
    """Trains in a folder, from a checkpoint if one is given; returns the state of the model."""
    rows = make_rows(load_student(student_folder))

    def run(folder: Path, resume: Path | None = None, stop: int | None = None) -> dict[str, Any]:
        loaded = load_student(student_folder)
        for module in loaded.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.1
        made = trainer(
            folder,
            loaded,
            rows,
            recipe(),
            [] if stop is None else [Stop(stop)],
            eval_strategy="epoch",
            save_strategy="steps",
            save_steps=2,
            seed=5,
            **SAMPLING[request.param],
        )
        made.train(resume_from_checkpoint=None if resume is None else str(resume))
        return {name: value.clone() for name, value in loaded.model.state_dict().items()}

    return run


@pytest.fixture(scope="module")
def unbroken(
    resumable: Run, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, resumable(folder)


@pytest.mark.parametrize("stop", [6, 8, 12], ids=["before-qat", "at-the-end-of-an-epoch", "in-qat"])
def test_a_resumed_run_ends_where_an_unbroken_one_does(
    resumable: Run, unbroken: tuple[Path, dict[str, Any]], tmp_path: Path, stop: int
) -> None:
    folder, expected = unbroken
    if stop == 12:
        resumable(tmp_path, stop=stop)
        folder = tmp_path
    resumed = resumable(tmp_path / "resumed", folder / f"checkpoint-{stop}")
    assert expected.keys() == resumed.keys()
    for name, value in expected.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_train_epochs": 3}, None),
        ({"num_train_epochs": 2}, "is at 3, past recipe.num_epochs=2; set that higher"),
        ({"num_train_epochs": 2, "max_steps": 24}, None),
        ({"num_train_epochs": 3, "max_steps": 23}, r"is at 24, past training\.max_steps=23"),
    ],
)
def test_a_checkpoint_past_the_end_is_refused(
    tmp_path: Path, changes: dict[str, Any], problem: str | None
) -> None:
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({}, tmp_path / name)
    (tmp_path / "trainer_state.json").write_text(json.dumps({"epoch": 3.0, "global_step": 24}))
    epochs, steps = changes["num_train_epochs"], changes.get("max_steps", -1)
    found = past_the_end(tmp_path, epochs, steps)
    assert (found is None) if problem is None else re.search(problem, str(found)), found
    # The arguments do not know the recipe, whose epochs count.
    SparseTrainingArguments(resume_from_checkpoint=str(tmp_path), **changes)


def test_every_epoch_and_seed_has_an_order_of_its_own(
    tmp_path: Path, student: LoadedModel, rows: dict[str, Dataset]
) -> None:
    def orders(seed: int) -> list[list[int]]:
        untouched = copy.deepcopy(student)
        settings = {"seed": seed, "train_sampling_strategy": "group_by_length"}
        run = trainer(tmp_path, untouched, rows, recipe(), **settings)
        loader, found = run.get_train_dataloader(), []
        for epoch in (0.0, 1.0, 1.5):
            run.state.epoch = epoch
            found.append([row for batch in loader.batch_sampler for row in batch])
        return found

    first, second, within_second = orders(seed=1)
    assert sorted(first) == sorted(second) == list(range(64))
    assert first != second == within_second
    assert orders(seed=1) == [first, second, second]
    assert first not in orders(seed=2)


def test_a_budget_of_tokens_makes_the_batches(
    tmp_path: Path, student: LoadedModel, rows: dict[str, Dataset]
) -> None:
    lengths = [len(ids) for ids in rows["train"]["input_ids"]]
    budget = 3 * max(lengths)
    run = trainer(
        tmp_path,
        student,
        rows,
        recipe(),
        train_sampling_strategy="group_by_length",
        tokens_per_batch=budget,
    )
    loader, orders = run.get_train_dataloader(), []
    for epoch in (0.0, 1.0, 1.5):
        run.state.epoch = epoch
        batches = list(loader.batch_sampler)
        assert sorted(row for batch in batches for row in batch) == list(range(64))
        padded = [len(batch) * max(lengths[row] for row in batch) for batch in batches]
        assert max(padded) <= budget
        # Another row would not have fitted, but for the last batch, which holds what was left.
        room = [budget - tokens for tokens in padded]
        longest = [max(lengths[row] for row in batch) for batch in batches]
        assert all(left < length for left, length in zip(room[:-1], longest[:-1], strict=True))
        assert len(batches) == len(loader)
        orders.append(batches)
    assert orders[0] != orders[1] == orders[2]
    run.train()
    assert run.state.global_step == 2 * len(loader)


def test_a_budget_of_tokens_keeps_the_settings_of_the_loader(
    tmp_path: Path, student: LoadedModel, rows: dict[str, Dataset]
) -> None:
    settings: dict[str, Any] = {
        "train_sampling_strategy": "group_by_length",
        "tokens_per_batch": 512,
        "dataloader_num_workers": 1,
        "dataloader_persistent_workers": True,
        "dataloader_prefetch_factor": 4,
    }
    loader = trainer(tmp_path, student, rows, recipe(), **settings).get_train_dataloader()
    assert loader.persistent_workers
    assert loader.prefetch_factor == 4
    with pytest.raises(ConfigError, match="the last batch has the shortest rows, always the same"):
        SparseTrainingArguments(dataloader_drop_last=True, **settings)


def test_several_gpus_of_one_process_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SparseTrainingArguments, "n_gpu", 3)
    with pytest.raises(ConfigError, match=r"torchrun --nproc_per_node=3, or .*CUDA_VISIBLE_DEV"):
        SparseTrainingArguments(use_cpu=True)
    monkeypatch.setattr(SparseTrainingArguments, "n_gpu", 1)
    SparseTrainingArguments(use_cpu=True)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_speed_counts_the_rows_that_were_trained_on(
    tmp_path: Path, student: LoadedModel, rows: dict[str, Dataset], accumulation: int
) -> None:
    run = trainer(
        tmp_path,
        student,
        rows,
        recipe(num_epochs=1),
        train_sampling_strategy="group_by_length",
        tokens_per_batch=100,
        gradient_accumulation_steps=accumulation,
        max_steps=2,
        per_device_train_batch_size=50,  # which no batch of the budget has
    )
    batches = list(run.get_train_dataloader().batch_sampler)[: 2 * accumulation]
    trained_on = sum(len(batch) for batch in batches)
    assert trained_on < 64
    measured = run.train().metrics
    found = measured["train_samples_per_second"] * measured["train_runtime"]
    assert found == pytest.approx(trained_on, rel=0.01)
    logged = [entry for entry in run.state.log_history if "train_runtime" in entry]
    assert [entry["train_samples_per_second"] for entry in logged] == [
        measured["train_samples_per_second"]
    ]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"tokens_per_batch": 0}, "set 1 or more"),
        ({"tokens_per_batch": 512}, "rows must be grouped"),
        ({"batch_eval_metrics": True}, "metrics are computed of a whole split"),
    ],
)
def test_an_argument_that_cannot_be_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        SparseTrainingArguments(use_cpu=True, **changes)


def test_a_budget_below_the_longest_row_is_refused(
    tmp_path: Path, student: LoadedModel, rows: dict[str, Dataset]
) -> None:
    run = trainer(
        tmp_path,
        student,
        rows,
        recipe(),
        train_sampling_strategy="group_by_length",
        tokens_per_batch=5,
    )
    with pytest.raises(UserError, match=r"tokens_per_batch is 5, and one row has \d+ tokens"):
        run.get_train_dataloader()


def test_lengths_are_read_once(
    tmp_path: Path, student: LoadedModel, rows: dict[str, Dataset]
) -> None:
    run = trainer(tmp_path, student, rows, recipe(), train_sampling_strategy="group_by_length")
    for loader in (run.get_train_dataloader(), run.get_eval_dataloader()):
        sampler = loader.batch_sampler.sampler
        assert isinstance(getattr(sampler, "_sampler", sampler).lengths, list)


def test_max_steps_pass_through_every_window(
    tmp_path: Path, student: LoadedModel, rows: dict[str, Dataset]
) -> None:
    run = trainer(tmp_path, student, rows, recipe(), max_steps=4)
    run.train()
    logged = [entry["quantizers_on"] for entry in run.state.log_history if "loss" in entry]
    assert logged == [0.0, 0.0, 1.0, 1.0]
    assert unseen(student.model) == []


def test_quantization_that_begins_behind_the_last_step_is_told(
    tmp_path: Path,
    student: LoadedModel,
    rows: dict[str, Dataset],
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = trainer(tmp_path, student, rows, recipe(), max_steps=1)
    run.train()
    blind = unseen(student.model)
    assert "bert.pooler.dense.input_quantizer" in blind
    run.save_model(str(tmp_path / "model"))
    record_model(run.recipe, student.model, run.run, run.args, {"steps": 1}, "fp32")
    assert f"{len(blind)} quantizers observed no values" in caplog.text


def test_a_saved_model_loads_in_plain_transformers(
    tmp_path: Path, student: LoadedModel, rows: dict[str, Dataset]
) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForSequenceClassification

    run = trainer(tmp_path, student, rows, recipe(), max_steps=2)
    run.train()
    run.save_model(str(tmp_path / "model"))
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert sparsity(plain)["overall"] == sparsity(student.model)["overall"]
    assert json.loads((tmp_path / "model" / "config.json").read_text())["id2label"]["1"] == "pos"
    assert_masks(run.recipe, load_file(tmp_path / "model" / "model.safetensors"), "on disk")
    assert (tmp_path / "model" / "quantizers.safetensors").is_file()


def test_a_broken_mask_is_an_error_that_names_the_layer(student: LoadedModel) -> None:
    made = recipe()
    made.attach(student.model)
    with torch.no_grad():
        student.model.bert.encoder.layer[0].output.dense.weight.fill_(1.0)
    with pytest.raises(RuntimeError, match=r"broken by hand: bert\.encoder\.layer\.0\.output"):
        assert_masks(made, dict(student.model.named_parameters()), "by hand")


@pytest.mark.parametrize(("precision", "matmul"), [("fp32", "highest"), ("bf16", "medium")])
def test_precision_on_a_cpu(tmp_path: Path, precision: str, matmul: str) -> None:
    args = SparseTrainingArguments(output_dir=str(tmp_path), precision=precision, use_cpu=True)
    assert not args.bf16
    with matmul_precision(args.matmul_precision):
        assert torch.get_float32_matmul_precision() == matmul
    assert torch.get_float32_matmul_precision() == "highest"


class Precisions(TrainerCallback):
    """Keeps torch's precision of matmuls at each step."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seen.append(torch.get_float32_matmul_precision())


@pytest.mark.parametrize(("precision", "matmul"), [("fp32", "highest"), ("bf16", "medium")])
def test_it_trains_with_the_precision_of_its_arguments(
    tmp_path: Path, student: LoadedModel, rows: dict[str, Dataset], precision: str, matmul: str
) -> None:
    watch = Precisions()
    short = {"max_steps": 2, "precision": precision}
    with matmul_precision("high"):  # Neither of them.
        trainer(tmp_path, student, rows, recipe(), [watch], **short).train()
        assert torch.get_float32_matmul_precision() == "high"
    assert watch.seen == [matmul] * 2


@pytest.mark.parametrize("sampling", ["random", "group_by_length"])
def test_the_order_of_rows_has_a_seed_of_its_own(
    tmp_path: Path, student: LoadedModel, rows: dict[str, Dataset], sampling: str
) -> None:
    def order(**seeds: int) -> list[list[int]]:
        asked = {"train_sampling_strategy": sampling, **seeds}
        run = trainer(tmp_path, student, rows, recipe(qat_start=None), **asked)
        return [ids for batch in run.get_train_dataloader() for ids in batch["input_ids"].tolist()]

    expected = order(seed=3)
    assert order(seed=4) != expected
    assert order(seed=4, data_seed=3) == expected != order(seed=3, data_seed=4)


@pytest.mark.parametrize(
    ("metric", "higher"), [("log_loss", False), ("eval_ece", False), ("f1_macro", True)]
)
def test_the_best_checkpoint_is_chosen_in_the_metrics_direction(
    tmp_path: Path, metric: str, higher: bool
) -> None:
    args = SparseTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, metric_for_best_model=metric
    )
    assert args.greater_is_better is higher


def test_transformers_own_flag_chooses_the_precision(tmp_path: Path) -> None:
    args = SparseTrainingArguments(output_dir=str(tmp_path), bf16=True, use_cpu=True)
    assert (args.precision, args.bf16) == ("bf16", False)
    assert args.matmul_precision == "medium"


def test_the_schedule_in_a_pipe_has_whole_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    distillation = {"_target_": f"{MODIFIERS}.distillation.logits.Distillation", "hardness": 1.0}
    rate = {"_target_": f"{MODIFIERS}.optimizer.LearningRateFunction", "init_lr": 0.1}
    rate |= {"lr_func": "linear", "final_lr": 0.0}
    nodes = {"learning_rate_of_a_long_name": rate, "distillation": distillation}
    made = Recipe.build({"num_epochs": 2, "modifiers": nodes}).for_teacher(False)
    write_schedule(made, 10_000, RunFolder(tmp_path))
    printed = capsys.readouterr().err
    [line] = [line for line in printed.splitlines() if "learning_rate_of_a_long_name" in line]
    assert all(cell in line for cell in ("LearningRateFunction", "0 - 2", "0 - 10000"))
    for window in json.loads((tmp_path / "schedule.json").read_text())["modifiers"]:
        assert window.get("note", "") in printed
