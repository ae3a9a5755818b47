"""Hydra sweeper `search`: Optuna chooses the jobs, which run and resume as those of a sweep do."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from hydra_plugins.sparsekit_sweeper import ResumingSweeper
from sparsekit.errors import UserError
from sparsekit.metrics.table import METRICS, higher_is_better
from sparsekit.runs.report import show
from sparsekit.sweep import jobs as jobs_of
from sparsekit.sweep.jobs import Job
from sparsekit.sweep.table import failures, label, outcome, summary_table

if TYPE_CHECKING:
    import optuna

DIRECTIONS = ("maximize", "minimize")
PRUNED = "Pruned"  # how summary.error begins for a trial that was stopped as unpromising


class SearchSweeper(ResumingSweeper):
    """Asks the study for trials, runs them as jobs and tells it their objectives."""

    def __init__(
        self,
        objectives: dict[str, str] | None,
        n_trials: int,
        n_jobs: int,
        storage: str,
        study: str | None,
        prune: bool,
        warmup_trials: int,
        seed: int,
        **sweep: Any,
    ) -> None:
        super().__init__(**sweep)
        if objectives is None:
            objectives = {"metrics.validation.accuracy": "maximize"}
        for key, direction in objectives.items():
            if direction not in DIRECTIONS:
                raise UserError(
                    f"hydra.sweeper.objectives.{key}={direction!r} must be one of "
                    f"{', '.join(DIRECTIONS)}"
                )
            if problem := wrong_direction(key, direction):
                raise UserError(f"hydra.sweeper.objectives.{key}={direction}: {problem}")
        if not objectives:
            raise UserError("hydra.sweeper.objectives is empty: name a key of summary.json")
        if urlsplit(storage).password is not None:
            raise UserError(
                "hydra.sweeper.storage holds a password, which would be written to the config of "
                "every job: leave it out of the address and put it in PGPASSWORD or ~/.pgpass"
            )
        self.objectives, self.n_trials, self.n_jobs = objectives, n_trials, n_jobs
        self.storage, self.study_name = storage, study
        self.warmup_trials, self.seed = warmup_trials, seed
        metric = next(iter(objectives))
        # Optuna prunes by one value; validation is the only one known while a job trains.
        if prune and len(objectives) == 1 and metric.startswith("metrics.validation."):
            self.reported: str | None = f"eval_{metric.rpartition('.')[2]}"
        else:
            self.reported = None

    def _sweep(self, arguments: list[str]) -> str | None:
        parser = OverridesParser.create(config_loader=self._context.config_loader)
        overrides = parser.parse_overrides(arguments)
        swept = {o.get_key_element(): o for o in overrides if o.is_sweep_override()}
        space = {key: distribution(override) for key, override in swept.items()}
        if not space:
            raise UserError("a search needs an axis, such as recipe.distill_hardness=interval(0,1)")
        fixed, _ = jobs_of.expand([o for o in overrides if o.get_key_element() not in swept])
        key = jobs_of.sweep_key(overrides)
        with self._held(Path(self._config.hydra.sweep.dir)) as folder:
            study = self._study(key)
            jobs = self._search(study, space, fixed[0], folder, key)
        self._show(study, jobs, list(space), folder)
        return failures(self._unpruned(jobs), list(space))

    def _search(
        self,
        study: optuna.Study,
        space: Mapping[str, optuna.distributions.BaseDistribution],
        fixed: Sequence[str],
        folder: Path,
        key: str,
    ) -> list[Job]:
        """The jobs of the trials that the study still lacks, run in `folder`."""
        jobs: list[Job] = []
        finished = [trial for trial in study.trials if trial.state.name in ("COMPLETE", "PRUNED")]
        left = self.n_trials - len(finished)
        while left > 0:
            trials = [study.ask(dict(space)) for _ in range(min(self.n_jobs, left))]
            asked = [self._compose([*fixed, *self._chosen(study, trial)]) for trial in trials]
            self._run(asked, folder, key, list(space))
            for trial, job in zip(trials, asked, strict=True):
                self._tell(study, trial, job)
            jobs, left = jobs + asked, left - len(trials)
            if self.fail_fast and failures(self._unpruned(asked), list(space)):
                break
        return jobs

    def _study(self, key: str) -> optuna.Study:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if self.storage.startswith("sqlite:///"):
            Path(self.storage.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        name = self.study_name or f"{key}-{'-'.join(self.objectives)}"
        # Another seed for a resumed study: the same would draw its first trials again.
        begun = name in optuna.get_all_study_names(self.storage)
        known = len(optuna.load_study(study_name=name, storage=self.storage).trials) if begun else 0
        return optuna.create_study(
            study_name=name,
            storage=self.storage,
            sampler=optuna.samplers.TPESampler(seed=self.seed + known),
            directions=[optuna.study.StudyDirection[d.upper()] for d in self.objectives.values()],
            load_if_exists=True,
        )

    def _chosen(self, study: optuna.Study, trial: optuna.Trial) -> list[str]:
        chosen = [f"{key}={value}" for key, value in trial.params.items()]
        if self.reported is None:
            return chosen
        report = {
            "_target_": "sparsekit.sweep.trial.ReportTrial",
            "storage": self.storage,
            "study": study.study_name,
            "number": trial.number,
            "metric": self.reported,
            "warmup_trials": self.warmup_trials,
        }
        quoted = ",".join(f"{key}:{json.dumps(value)}" for key, value in report.items())
        return [*chosen, f"sweep.trial={{{quoted}}}"]

    def _tell(self, study: optuna.Study, trial: optuna.Trial, job: Job) -> None:
        import optuna

        end = outcome(job)
        trial.set_user_attr("folder", str(job.folder))
        if end.status == "completed":
            found = [_value(end.summary or {}, key) for key in self.objectives]
            if None not in found:
                study.tell(trial, [float(value) for value in found if value is not None])
                return
            missing = [k for k, v in zip(self.objectives, found, strict=True) if v is None]
            sys.stderr.write(f"{job.folder}: summary.json has no {', '.join(missing)}\n")
        pruned = (end.error or "").startswith(PRUNED)
        states = optuna.trial.TrialState
        study.tell(trial, state=states.PRUNED if pruned else states.FAIL)

    def _unpruned(self, jobs: Sequence[Job]) -> list[Job]:
        return [job for job in jobs if not (outcome(job).error or "").startswith(PRUNED)]

    def _show(
        self, study: optuna.Study, jobs: Sequence[Job], axes: Sequence[str], folder: Path
    ) -> None:
        show(summary_table(jobs, axes, folder))
        best = {trial.number for trial in study.best_trials}
        for trial in study.trials:
            if trial.number in best:
                values = zip(self.objectives, trial.values or [], strict=True)
                chosen = Job(overrides=[f"{k}={v}" for k, v in trial.params.items()])
                reached = ", ".join(f"{key} {value:g}" for key, value in values)
                sys.stdout.write(f"best: {label(chosen, axes)}: {reached}\n")
        self._end(folder)


def wrong_direction(key: str, direction: str) -> str | None:
    """Why an objective looks for the worst value of a metric; None where it does not.

    >>> wrong_direction("metrics.validation.log_loss", "maximize")
    'lower is better; set minimize'
    """
    name = key.rpartition(".")[2]
    if "metrics." not in key or name not in METRICS:
        return None
    better, wanted = ("higher", "maximize") if higher_is_better(name) else ("lower", "minimize")
    return None if direction == wanted else f"{better} is better; set {wanted}"


def distribution(override: Override) -> optuna.distributions.BaseDistribution:
    """Optuna's distribution for an axis: an interval, a range or a list of values.

    `tag(log, interval(1e-5,1e-3))` is drawn on a logarithmic scale.
    """
    import optuna

    values = override.value()
    log = "log" in getattr(values, "tags", ())
    if isinstance(values, IntervalSweep):
        assert values.start is not None
        assert values.end is not None
        start, end = float(values.start), float(values.end)
        return optuna.distributions.FloatDistribution(start, end, log=log)
    if isinstance(values, RangeSweep) and values.step == 1 and isinstance(values.start, int):
        listed = list(values.range())
        return optuna.distributions.IntDistribution(int(listed[0]), int(listed[-1]), log=log)
    return optuna.distributions.CategoricalDistribution(list(override.sweep_string_iterator()))


def _value(summary: Mapping[str, Any], key: str) -> float | None:
    value: Any = summary
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) else None
