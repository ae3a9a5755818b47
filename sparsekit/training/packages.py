"""Packages that some training arguments need, found missing before anything is trained."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec

# training.report_to -> a module of the package, and the package.
TRACKERS = {
    "azure_ml": ("azureml", "azureml-mlflow"),
    "clearml": ("clearml", "clearml"),
    "codecarbon": ("codecarbon", "codecarbon"),
    "comet_ml": ("comet_ml", "comet-ml"),
    "dagshub": ("dagshub", "dagshub"),
    "dvclive": ("dvclive", "dvclive"),
    "flyte": ("flytekit", "flytekit"),
    "mlflow": ("mlflow", "mlflow"),
    "neptune": ("neptune", "neptune"),
    "swanlab": ("swanlab", "swanlab"),
    "tensorboard": ("tensorboard", "tensorboard"),
    "trackio": ("trackio", "trackio"),
    "wandb": ("wandb", "wandb"),
}
# A pattern of training.optim -> the same; the first that matches counts.
OPTIMIZERS = {
    "galore": ("galore_torch", "galore-torch"),
    "apollo": ("apollo_torch", "apollo-torch"),
    "lomo": ("lomo_optim", "lomo-optim"),
    "grokadamw": ("grokadamw", "grokadamw"),
    "stable_adamw": ("optimi", "torch-optimi"),
    "schedule_free": ("schedulefree", "schedulefree"),
    "adamw_torch_(4|8)bit": ("torchao", "torchao"),
    "8bit|paged|lion|ademamix|_bnb": ("bitsandbytes", "bitsandbytes"),
}


def package_problems(report_to: Sequence[str], optim: str) -> list[str]:
    """What is not installed of the trackers `report_to` and the optimizer `optim`, and the fix."""
    needed = {f"training.report_to={name}": TRACKERS.get(name) for name in report_to}
    patterns = (packages for pattern, packages in OPTIMIZERS.items() if re.search(pattern, optim))
    needed[f"training.optim={optim}"] = next(patterns, None)
    return [
        f"{key} needs a package that is not installed: pip install {packages[1]}"
        for key, packages in needed.items()
        if packages is not None and find_spec(packages[0]) is None
    ]
