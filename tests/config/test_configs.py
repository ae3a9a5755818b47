"""Every yaml under conf/ and experiments/ composes and builds; the count says none was missed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import write_checkpoint
from launching import composed
from project import ROOT

from sparsekit.config.build import build
from sparsekit.config.plain import plain
from sparsekit.config.unread import unread_keys
from sparsekit.errors import ConfigError
from sparsekit.pipeline.experiment import CHOOSES_CHECKPOINTS, teacher_arguments
from sparsekit.pipeline.plan import Plan
from sparsekit.recipe.recipe import Recipe
from sparsekit.runs.tracking import TrackingConfig
from sparsekit.sparseml import peer

CHOICES = sorted(path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml"))
GROUPS = {
    "task",
    "dataset",
    "rows",
    "student",
    "shrink",
    "teacher",
    "recipe",
    "training",
    "export",
    "runtime",
    "tracking",
    "engine",
}
EXPERIMENTS = sorted(path.relative_to(ROOT) for path in (ROOT / "experiments").glob("*.yaml"))

# What a user must give with a choice.
NEEDED = {
    "runtime/deepsparse": ["export=deepsparse"],
    "dataset/csv": ["dataset.data_files.train=a.csv", "dataset.data_files.validation=b.csv"],
    "dataset/json": ["dataset.data_files.train=a.json", "dataset.data_files.validation=b.json"],
    "dataset/files": ["dataset.data_files.train=a.tsv", "dataset.data_files.validation=b.tsv"],
    "dataset/hub": ["dataset.path=me/tickets"],
    "dataset/conll": ["dataset.data_files.train=a.conll", "dataset.data_files.validation=b.conll"],
    "task/masked_lm": ["export=none", "runtime=none"],
    "teacher/checkpoint": ["teacher.checkpoint=folder"],
    "recipe/sparseml": [f"recipe.path={ROOT / 'tests' / 'sparseml_recipes' / 'transfer_qat.yaml'}"],
}


def built(values: dict[str, Any]) -> Plan:
    plan = Plan.build(values)
    assert isinstance(build(values["tracking"], "tracking"), TrackingConfig)
    return plan


def test_the_walk_finds_all_of_them() -> None:
    assert len(CHOICES) == 81
    assert len(EXPERIMENTS) == 8
    assert {path.parts[0] for path in CHOICES} == GROUPS | {"config.yaml", "hydra"}


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_a_choice_composes_and_builds(choice: Path, peer_stand_in: str) -> None:
    name = str(choice.with_suffix(""))
    chosen = {"dataset": "rotten_tomatoes", "teacher": "textattack"}
    if len(choice.parts) > 1:
        chosen[str(choice.parent)] = choice.stem
    if choice.parts[0] == "task":
        # Each with data of its own columns.
        chosen["dataset"] = "json"
    if name == "recipe/dense":
        chosen["teacher"] = "none"
    overrides = [f"{group}={option}" for group, option in chosen.items()]
    needed = NEEDED[f"dataset/{chosen['dataset']}"] if choice.parts[0] == "task" else []
    cfg = composed(*overrides, *needed, *NEEDED.get(name, []))
    values = plain(cfg)
    plan = built(values)
    assert plan.recipe.modifiers
    assert plan.training.num_train_epochs == plan.recipe.num_epochs
    assert (plan.export is None) == (name in ("export/none", "task/masked_lm"))


@pytest.mark.parametrize(
    "recipe", ["dense", "pruned90", "pruned90_quant", "gradual90_quant", "from_dense"]
)
@pytest.mark.parametrize("task", sorted(p.stem for p in (ROOT / "conf" / "task").glob("*.yaml")))
def test_a_task_takes_every_recipe(task: str, recipe: str) -> None:
    teacher = "self" if task == "embedding" else "none"
    chosen = [f"task={task}", f"recipe={recipe}", f"teacher={teacher}", "dataset=json"]
    needed = [*NEEDED["dataset/json"], *NEEDED.get(f"task/{task}", [])]
    cfg = composed(*chosen, *needed)
    assert unread_keys(cfg) == []
    if recipe == "dense" and task == "embedding":
        with pytest.raises(ConfigError, match="teacher"):
            built(plain(cfg))
    else:
        built(plain(cfg))


def test_the_ingredients_of_from_dense() -> None:
    def recipe(*overrides: str) -> Recipe:
        chosen = ["dataset=sst2", "teacher=self", "recipe=from_dense", "recipe.num_epochs=6"]
        return built(plain(composed(*chosen, *overrides))).recipe

    plainly = recipe("recipe.obs_gradients=0")
    assert not {"averaging", "hidden_states", "attention", "obs"} & set(plainly.modifiers)
    assert plainly.modifiers.keys() - {"pruning"} == recipe().modifiers.keys() - {"obs"}
    assert vars(recipe().modifiers["obs"])["num_grads"] == 512
    # Without a loss of labels there are no gradients.
    embeddings = recipe("task=embedding", "dataset=csv", "dataset.data_files.train=a.csv")
    assert "pruning" in embeddings.modifiers and "obs" not in embeddings.modifiers
    with pytest.raises(ConfigError, match=r"prune by magnitude \(recipe\.obs_gradients=0"):
        recipe("recipe.mask_type=2:4", "recipe.final_sparsity=0.5")
    fixed = recipe("recipe.mask_type=2:4", "recipe.final_sparsity=0.5", "recipe.obs_gradients=0")
    assert "pruning" in fixed.modifiers
    surgeon = recipe("recipe.obs_gradients=64", "recipe.obs_block_size=8")
    assert "pruning" not in surgeon.modifiers
    assert vars(surgeon.modifiers["obs"])["num_grads"] == 64
    assert vars(surgeon.modifiers["obs"])["fisher_block_size"] == 8
    assert vars(surgeon.modifiers["obs"])["global_sparsity"] is True
    by_layer = recipe("recipe.obs_gradients=64", "recipe.obs_global=false")
    assert vars(by_layer.modifiers["obs"])["global_sparsity"] is False
    assert surgeon.modifiers["obs"].start == plainly.modifiers["pruning"].start
    assert surgeon.modifiers["obs"].end == plainly.modifiers["pruning"].end
    with pytest.raises(ConfigError, match="num_grads -1 must be a whole number of 1 or more"):
        recipe("recipe.obs_gradients=-1")
    for surgery in ("recipe.obs_gradients=0", "recipe.obs_gradients=64"):
        assert not {"pruning", "obs"} & recipe("recipe.final_sparsity=0", surgery).modifiers.keys()
    with pytest.raises(ConfigError, match="final_sparsity"):
        recipe("recipe.final_sparsity=-1")
    assert plainly.lr(3.0, 100) == pytest.approx(0.5e-4)
    assert recipe("recipe.averaged_epochs=1.5").modifiers["averaging"].start == 4.5
    assert recipe("recipe.hidden_gain=0.5").uses_teacher("model")
    assert vars(recipe("recipe.attention_gain=0.5").modifiers["attention"])["gain"] == 0.5
    assert vars(plainly.modifiers["dropout"])["p"] == 0.0
    assert vars(recipe("recipe.dropout=0.05").modifiers["dropout"])["p"] == 0.05
    assert "dropout" not in recipe("recipe.modifiers.dropout.enabled=false").modifiers
    cycles = recipe("recipe.lr_func=cyclic_linear", "recipe.lr_cycle_epochs=3")
    assert cycles.lr(3.0, 100) == pytest.approx(1e-4)
    observers = recipe("recipe.weight_observer=mse", "recipe.activation_observer=percentile")
    assert vars(observers.modifiers["quantization"])["weight_observer"] == "mse"
    with pytest.raises(ConfigError, match="averaging starts at epoch 7 but training ends at 6"):
        recipe("recipe.averaged_epochs=-1")


def test_a_form_that_the_runtime_cannot_run_is_a_problem(peer_stand_in: str) -> None:
    values = plain(composed("dataset=sst2", "runtime=deepsparse"))
    with pytest.raises(ConfigError, match="qdq does not run on runtime=deepsparse; set"):
        built(values)


def test_a_runtime_that_is_not_installed_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "peer_python", lambda: None)
    monkeypatch.delenv("SPARSEKIT_PEER_PYTHON", raising=False)
    values = plain(composed("dataset=sst2", "runtime=deepsparse"))
    with pytest.raises(ConfigError, match="not installed: make peer-env"):
        built(values)


def test_a_quantization_that_no_step_sees_is_a_problem_of_an_export() -> None:
    def smoke(*overrides: str) -> Plan:
        choices = ["dataset=sst2", "teacher=self", "training=smoke", *overrides]
        return built(plain(composed(*choices)))

    # Twenty steps pass through every window of our recipes.
    for same in ("recipe.qat_epochs=1", "recipe.qat_epochs=2", "recipe=gradual90_quant"):
        assert "quantization" in smoke(same).recipe.modifiers
    assert "quantization" not in smoke("recipe.qat_epochs=0").recipe.modifiers
    with pytest.raises(ConfigError, match=r"none of the 20 optimizer steps.*recipe.qat_epochs=1.3"):
        smoke("recipe.qat_epochs=0.5")
    assert smoke("recipe.qat_epochs=1.3").export is not None
    assert smoke("recipe.qat_epochs=0.5", "export=none").export is None


def test_a_run_without_a_teacher_learns_the_task_alone() -> None:
    for recipe in ("pruned90", "pruned90_quant"):
        values = plain(composed("dataset=sst2", f"recipe={recipe}"))
        plan = built(values)
        assert list(plan.recipe.without_teacher) == ["distillation"]
    unused = ["dataset=sst2", "recipe=dense", "teacher=textattack"]
    with pytest.raises(ConfigError, match="no modifier that distils"):
        built(plain(composed(*unused)))


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("+training.learning_rate=1", "training.learning_rate=1 .* set recipe.init_lr"),
        (
            "+training.warmup_steps=100",
            r"warmup_steps=100 .* that modifier: ~recipe\.modifiers\.learning_rate$",
        ),
        (
            "+training.warmup_ratio=0.1",
            "training.warmup_ratio=0.1 .* decides it and has no such setting",
        ),
        (
            "+training.lr_scheduler_type=cosine",
            r"cosine .* set recipe\.modifiers\.learning_rate\.lr_func$",
        ),
        ("+training.weight_decay=0.5", "training.weight_decay=0.5 .* set recipe.weight_decay"),
        ("training.num_train_epochs=4", "num_train_epochs=4 .* set recipe.num_epochs"),
        ("training.remove_unused_columns=true", "would remove the teacher's logits"),
    ],
)
def test_an_argument_without_effect_is_a_problem(override: str, problem: str) -> None:
    choices = ["dataset=sst2", "teacher=self", override]
    with pytest.raises(ConfigError, match=problem):
        built(plain(composed(*choices)))


def test_a_token_in_the_config_is_a_problem_that_does_not_repeat_it() -> None:
    values = plain(composed("dataset=sst2", "+training.hub_token=hf_0key"))
    with pytest.raises(ConfigError, match=r"training\.hub_token .* set HF_TOKEN") as refused:
        built(values)
    assert "hf_0key" not in str(refused.value)
    values["training"]["hub_token"] = None
    built(values)


def test_a_checkpoint_past_the_recipes_end_is_a_problem(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoints", 200)
    resumed = f"training.resume_from_checkpoint={checkpoint}"
    values = plain(composed("dataset=sst2", resumed))
    with pytest.raises(ConfigError, match=r"is at 20, past recipe\.num_epochs=\d+; set that"):
        built(values)


def test_an_argument_that_the_recipe_leaves_open_has_its_effect() -> None:
    choices = ["dataset=sst2", "~recipe.modifiers.learning_rate", "+training.learning_rate=1"]
    assert built(plain(composed(*choices))).training.learning_rate == 1
    # Before a window opens the argument's value holds.
    later = ["dataset=sst2", "+recipe.modifiers.weight_decay.start=1", "+training.weight_decay=0.5"]
    assert built(plain(composed(*later))).training.weight_decay == 0.5


def test_a_teachers_recipe_replaces_the_students_arguments() -> None:
    choices = ["dataset=sst2", "teacher=finetuned", "~recipe.modifiers.weight_decay"]
    choices += ["+training.weight_decay=0.5", "+training.adam_beta2=0.9"]
    plan = built(values := plain(composed(*choices)))
    assert plan.training.weight_decay == 0.5
    left = teacher_arguments(values["training"], plan.teacher)
    left_out = {"weight_decay", "resume_despite_changes", *CHOOSES_CHECKPOINTS}
    left_out.remove("greater_is_better")  # conf/ does not have it
    assert values["training"].keys() - left.keys() == left_out
    assert left["adam_beta2"] == 0.9


def test_a_teacher_is_trained_to_its_end_whatever_its_student_chooses() -> None:
    choices = ["dataset=sst2", "teacher=finetuned", "training.load_best_model_at_end=true"]
    choices += ["training.metric_for_best_model=accuracy", "training.early_stopping_patience=2"]
    plan = built(values := plain(composed(*choices)))
    assert (plan.training.metric_for_best_model, plan.training.greater_is_better) == (
        "accuracy",
        True,
    )
    teacher = build(teacher_arguments(values["training"], plan.teacher), "training")
    assert (teacher.load_best_model_at_end, teacher.save_strategy) == (False, "no")


def test_a_metric_to_choose_by_is_one_of_the_data_sets() -> None:
    choices = ["dataset=sst2", "training.load_best_model_at_end=true"]
    with pytest.raises(ConfigError, match=r"metric_for_best_model=f1 is not computed"):
        built(plain(composed(*choices, "training.metric_for_best_model=f1")))


def test_a_push_that_must_fail_is_a_problem() -> None:
    """The Hub is switched off here: known now, not after hours of training."""
    pushing = ["dataset=sst2", "export.push_to_hub=me/reviews"]
    with pytest.raises(ConfigError, match=r"export.push_to_hub=me/reviews would fail: the Hub is"):
        built(plain(composed(*pushing)))


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=str)
def test_an_experiment_composes_and_builds(experiment: Path) -> None:
    cfg = composed(f"experiments={experiment.stem}")
    built(plain(cfg))
    # The header that Hydra reads must be the first line; the command that runs it is the next.
    first = (ROOT / experiment).read_text().splitlines()[1]
    assert first.startswith("# python launch.py ")
    assert f"experiments={experiment.stem}" in first


def test_a_teachers_own_recipe_keeps_its_values() -> None:
    overrides = ["dataset=rotten_tomatoes", "teacher=finetuned", "recipe.init_lr=0.5"]
    values = plain(composed(*overrides))
    assert values["teacher"]["recipe"]["modifiers"]["learning_rate"]["init_lr"] == 5e-5
    assert values["recipe"]["modifiers"]["learning_rate"]["init_lr"] == 0.5
