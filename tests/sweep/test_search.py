"""A search by Optuna: trials become jobs, the study resumes, what is unpromising is stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock
from hydra.core.override_parser.overrides_parser import OverridesParser
from sweeping import poison, ran, statuses, sweep

from sparsekit.errors import UserError

optuna = pytest.importorskip("optuna", reason="pip install 'sparsekit[optuna]'")

SEARCH = ["hydra/sweeper=search", "hydra/launcher=basic", "hydra.sweeper.n_trials=6"]
HARDNESS = "recipe.distill_hardness=interval(0,1)"


def study(folder: Path) -> optuna.Study:
    storage = f"sqlite:///{folder / 'multirun' / 'search.db'}"
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


@pytest.mark.slow
def test_a_search_prunes_resumes_and_names_the_best(tmp_path: Path) -> None:
    pruning = ["hydra.sweeper.warmup_trials=2", HARDNESS]
    done = sweep(tmp_path, *SEARCH, *pruning)
    trials = study(tmp_path).trials
    assert len(trials) == 6
    pruned = [trial for trial in trials if trial.state.name == "PRUNED"]
    assert pruned
    # Each was worse, when it was stopped, than the median of those that had ended before.
    for trial in pruned:
        ended = sorted(t.value for t in trials[: trial.number] if t.state.name == "COMPLETE")
        assert trial.intermediate_values[1] < ended[len(ended) // 2]
    best = study(tmp_path).best_trial
    assert f"best: recipe.distill_hardness={best.params['recipe.distill_hardness']}" in done.stdout
    for trial in trials:
        hardness = trial.params["recipe.distill_hardness"]
        assert trial.intermediate_values[1] == pytest.approx(1 - (hardness - 0.3) ** 2)
    count = len(ran(tmp_path))
    assert count == 6
    sweep(tmp_path, *SEARCH, *pruning)
    assert ran(tmp_path) == []
    sweep(tmp_path, *SEARCH, *pruning, "hydra.sweeper.n_trials=8")
    assert len(ran(tmp_path)) == 2
    assert len(study(tmp_path).trials) == 8


@pytest.mark.slow
def test_two_objectives_have_a_front_and_failures_are_named(tmp_path: Path) -> None:
    poison(tmp_path, s3="exit")
    done = sweep(
        tmp_path,
        *SEARCH,
        HARDNESS,
        "student.sparsity=0.5,0.8",
        "seed=range(1,4)",
        # As docs/how-to/sweep.md has it, spaces and all.
        "hydra.sweeper.objectives={metrics.validation.accuracy: maximize, "
        "runtime.onnxruntime.latency_ms_p50: minimize}",
        "hydra.sweeper.n_jobs=3",
        code=1,
    )
    trials = study(tmp_path).trials
    failed = [trial for trial in trials if trial.params["seed"] == 3]
    assert failed
    assert {trial.state.name for trial in failed} == {"FAIL"}
    assert all(len(t.values) == 2 for t in trials if t.state.name == "COMPLETE")
    assert done.stdout.count("best: ") == len(study(tmp_path).best_trials)
    assert f"{len(failed)} of 6 jobs failed" in done.stderr
    assert sorted(statuses(tmp_path).values()).count("failed") == len(failed)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("hydra.sweeper.objectives={metrics.validation.accuracy:up}", "must be one of maximize"),
        (
            "hydra.sweeper.objectives={metrics.validation.log_loss:maximize}",
            "log_loss=maximize: lower is better; set minimize",
        ),
        (
            "hydra.sweeper.objectives={metrics.validation.accuracy:minimize}",
            "accuracy=minimize: higher is better; set maximize",
        ),
        ("seed=1", "a search needs an axis"),
    ],
)
def test_a_search_that_cannot_be_run_is_refused(tmp_path: Path, change: str, problem: str) -> None:
    axis = [] if change == "seed=1" else [HARDNESS]
    assert problem in sweep(tmp_path, *SEARCH, *axis, change, code=1).stderr


def test_a_password_in_the_address_of_the_storage_is_refused() -> None:
    """It would be in the config of every job, in sweep.json and in what W&B uploads."""
    from hydra_plugins.sparsekit_search import SearchSweeper

    storage = "postgresql://me:hunter2@host/db"
    settings = {"objectives": None, "n_trials": 1, "n_jobs": 1, "study": None, "prune": False}
    sweep = {"rerun": "failed", "fail_fast": False, "root": "multirun"}
    with pytest.raises(UserError, match="PGPASSWORD") as refused:
        SearchSweeper(**settings, **sweep, storage=storage, warmup_trials=1, seed=0)
    assert "hunter2" not in str(refused.value)


def test_axes_become_distributions() -> None:
    from hydra_plugins.sparsekit_search import distribution

    parse = OverridesParser.create().parse_override
    kinds = optuna.distributions
    assert distribution(parse("a=interval(0,1)")) == kinds.FloatDistribution(0.0, 1.0)
    scale = distribution(parse("a=tag(log,interval(1e-5,1e-3))"))
    assert scale == kinds.FloatDistribution(1e-5, 1e-3, log=True)
    assert distribution(parse("a=range(1,5)")) == kinds.IntDistribution(1, 4)
    assert distribution(parse("a=x,y")) == kinds.CategoricalDistribution(["x", "y"])


def test_a_pruned_trial_says_so() -> None:
    from hydra_plugins.sparsekit_search import PRUNED
    from sparsekit.runs.summary import describe
    from sparsekit.sweep.trial import Pruned

    assert describe(Pruned("accuracy 0.5")).startswith(PRUNED)
    assert not describe(UserError("Prune")).startswith(PRUNED)


@pytest.mark.slow
def test_a_search_that_runs_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    words = [*SEARCH, HARDNESS, "hydra.sweeper.n_trials=1", "hydra.sweep.dir=here"]
    with FileLock(tmp_path / "here" / ".sweep.lock"):
        done = sweep(tmp_path, *words, code=1)
    assert "another process runs the sweep in here" in done.stderr
    sweep(tmp_path, *words)
    assert (tmp_path / "here" / "0" / "summary.json").is_file()
