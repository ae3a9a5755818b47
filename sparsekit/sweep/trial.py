"""A job of a search: it reports every validation and stops if it is unpromising."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Pruned(Exception):
    """The trial is stopped: the median of earlier trials at the same epoch was better."""


@dataclass(kw_only=True)
class ReportTrial(TrainerCallback):
    """Reports `metric` (`eval_accuracy`) of every evaluation to trial `number` of an Optuna study.

    `storage` is the study's database, which other machines may share. Raises Pruned when the
    study's pruner decides so, after `warmup_trials` finished trials.
    """

    storage: str
    study: str
    number: int
    metric: str
    warmup_trials: int

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        import optuna

        if not metrics or self.metric not in metrics:
            return
        study = optuna.load_study(
            study_name=self.study,
            storage=self.storage,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=self.warmup_trials),
        )
        known = study.get_trials(deepcopy=False)[self.number]
        trial = optuna.trial.Trial(study, known._trial_id)
        trial.report(metrics[self.metric], step=state.global_step)
        if trial.should_prune():
            raise Pruned(f"{self.metric} {metrics[self.metric]:.4f} at epoch {state.epoch:g}")
