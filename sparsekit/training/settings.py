"""What a run must have in common with the checkpoint that it resumes from."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sparsekit.config.identity import without_added
from sparsekit.config.old_names import current_name
from sparsekit.distributed import PROCESSES
from sparsekit.errors import ConfigError
from sparsekit.runs.folder import RunFolder
from sparsekit.training import checkpoints

LOG = logging.getLogger(__name__)

ROWS = "training rows"
FILES = "data files"
MODELS = "local models"
OPTIMIZER = "training.optim"

# Groups and keys that do not change what is trained: where a run is kept and shown, what is saved
# and logged, what follows training, how rows are loaded.
_FREE_GROUPS = ("output_dir", "tracking", "sweep", "export", "runtime")
_FREE_TRAINING = (
    *("output_dir", "resume_from_checkpoint", "resume_despite_changes"),
    *("save_strategy", "save_steps", "save_total_limit", "restore_callback_states_from_checkpoint"),
    *("load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
    *("early_stopping_patience", "early_stopping_threshold"),
    *("eval_strategy", "eval_steps", "eval_delay", "per_device_eval_batch_size"),
    *("logging_strategy", "logging_steps", "logging_first_step", "logging_dir", "log_level"),
    *("disable_tqdm", "report_to", "run_name", "push_to_hub"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers"),
)

_FREE_DATASET = ("metrics", "rows")


def trained_by(
    values: Mapping[str, Any],
    train_rows: str | None = None,
    data_files: str | None = None,
    models: str | None = None,
) -> dict[str, Any]:
    """What decides how training goes on, by dotted keys of the resolved config `values`.

    train_rows: the fingerprint of the training rows.
    data_files: the hash of the files of all splits, by which a sweep tells whether they changed. A
        run may go on where only those of other splits did.
    models: the hash of the local folders of student and teacher.
    """
    kept = {key: value for key, value in values.items() if key not in _FREE_GROUPS}
    decisive = without_added(kept)
    decisive["dataset"] = {
        key: value for key, value in decisive["dataset"].items() if key not in _FREE_DATASET
    }
    decisive["training"] = {
        key: value for key, value in values["training"].items() if key not in _FREE_TRAINING
    }
    facts = dict(_flat(decisive, "")) | {"number of processes": PROCESSES}
    known = {ROWS: train_rows, FILES: data_files, MODELS: models}
    return facts | {name: value for name, value in known.items() if value is not None}


def check_unchanged(resumed: str | bool | None, now: Mapping[str, Any], allow: bool) -> None:
    """Raise ConfigError with every key of which `now` and the checkpoint `resumed` differ.

    Does nothing where no checkpoint is resumed. Where changes are allowed, the optimizer must still
    be the same: another one cannot read the state in the checkpoint.

    Checkpoints of versions before 0.2 have no record; they are compared with their run's
    `config.yaml`. `now` may lack the training rows and the models, which are not known before they
    are read.
    """
    if not resumed:
        return
    checkpoint = Path(str(resumed))
    before = checkpoints.record(checkpoint).get("trained_by")
    if before is None:
        run = RunFolder(checkpoint.parent.parent)
        if not run.config_file.is_file():
            LOG.warning("%s does not say what it was trained by: nothing is compared", checkpoint)
            return
        before = trained_by(run.config)
    changed = [
        f"{key} was {_shown(before, key)} and is now {_shown(now, key)}"
        for key in {**before, **now}
        if before.get(key) != now.get(key) and key != FILES
        # Read later than the config is compared, and unknown of older checkpoints.
        if not (key in (ROWS, MODELS) and key not in before.keys() & now)
    ]
    if OPTIMIZER in before and before[OPTIMIZER] != now.get(OPTIMIZER):
        raise ConfigError(
            [
                f"{checkpoint} holds the state of {OPTIMIZER}={before[OPTIMIZER]}, which "
                f"{now.get(OPTIMIZER)} cannot read; set it as it was, or train from the start"
            ]
        )
    if changed and not allow:
        raise ConfigError(
            [
                f"{checkpoint} was trained by other settings: {'; '.join(changed)}; set them as "
                "they were, train from the start, or resume despite them: "
                "training.resume_despite_changes=true"
            ]
        )


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            # Checkpoints of earlier versions name classes as they were called then.
            yield f"{prefix}{key}", current_name(value) if key == "_target_" else value


def _shown(facts: Mapping[str, Any], key: str) -> str:
    return "not set" if facts.get(key) is None else repr(facts[key])
