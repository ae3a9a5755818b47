"""`sparsekit train`: run one experiment, or with `-m` a sweep. Hydra reads its arguments."""

from __future__ import annotations

import typer


def train(context: typer.Context) -> None:
    """Train, prune, distil, quantize and export as a config says, or sweep with -m.

    Takes overrides (dataset=csv recipe.num_epochs=3) and every option of Hydra's, such as --help,
    --cfg job, --config-dir FOLDER and --multirun.
    """
    from sparsekit.cli.launch import launch

    launch(context.args)
