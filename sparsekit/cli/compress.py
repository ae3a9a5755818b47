"""`sparsekit compress`: the smallest int8 model that is shown to be as good as the dense one."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsekit.cli.allow import Allow, import_allowed
from sparsekit.cli.stopping import handle_signals
from sparsekit.errors import printable
from sparsekit.system import expanded

if TYPE_CHECKING:
    from sparsekit.runs.folder import RunFolder
    from sparsekit.sweep.compression import Search, Trial


class Removed(StrEnum):
    """What the trials remove from the dense model, as in `sparsekit.sweep.candidates`."""

    weights = "weights"
    structures = "structures"


Model = Annotated[str, typer.Argument(help="A fine-tuned model: a run, a folder or a Hub id.")]
Rows = Annotated[Path, typer.Option(help="A file of rows of the model's task to train on.")]
MaxDrop = Annotated[
    float, typer.Option(help="The largest allowed drop, in points; for a loss, in its own unit.")
]
Alpha = Annotated[
    float,
    typer.Option(help="The risk of passing a model that drops by --max-drop, over all trials."),
]
Validation = Annotated[
    Path | None, typer.Option(help="A file of rows to validate on. [default: a tenth of --data]")
]
What = Annotated[
    Removed,
    typer.Option(
        help="weights: set single weights to zero, which runtime=sparse and DeepSparse skip; "
        "structures: remove heads and neurons, which is faster on every runtime."
    ),
]
MaxLatency = Annotated[
    str | None,
    typer.Option(help="The longest median latency, such as 3ms; milliseconds without a unit."),
]
Budget = Annotated[
    str | None,
    typer.Option(
        help="Time limit, such as 90m or 2h: no trial starts that, taking as long as the longest "
        "before it, would exceed it. The first always starts."
    ),
]
Epochs = Annotated[float, typer.Option(help="Epochs of each trial.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the trials.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Overrides of `sparsekit train` for every trial.")
]


def compress(
    model: Model,
    data: Rows,
    max_drop: MaxDrop,
    alpha: Alpha = 0.05,
    validation: Validation = None,
    remove: What = Removed.weights,
    max_latency: MaxLatency = None,
    budget: Budget = None,
    epochs: Epochs = 20,
    output: Output = Path("compressed"),
    allow: Allow = None,
    overrides: Overrides = None,
) -> None:
    """Compress a fine-tuned model as far as its answers stay as good, and deploy it.

    Trains with recipe=from_dense: first with most of the weights or structures removed, then with
    fewer, finally only quantized, until the gate shows a loss of less than --max-drop. Every trial
    is a run folder; called again, it goes on where it stopped. Exit code 1: none was good enough.
    """
    from sparsekit.cli.compress_report import conclusion, table
    from sparsekit.compare.write import write_comparison
    from sparsekit.runs.report import show
    from sparsekit.sweep.compression import Search, search
    from sparsekit.sweep.dense_model import dense_model

    # What can be wrong without the model, before it is fetched.
    seconds = None if budget is None else _seconds(budget)
    _check(max_drop, alpha, epochs)
    longest = None if max_latency is None else _milliseconds(max_latency)
    import_allowed(allow)
    dense = dense_model(model, overrides or [])
    asked = Search(
        model=str(dense.folder),
        data=str(_file(data)),
        validation=None if validation is None else str(_file(validation)),
        max_drop=max_drop,
        alpha=alpha,
        remove=remove.value,
        max_latency=longest,
        epochs=epochs,
        task=dense.words,
        labelled=not dense.task.learns_from_teacher,
        overrides=overrides or [],
    )
    trials = list(search(asked, output.absolute(), _train, seconds))
    if trials:
        show(table(trials))
        _, files = write_comparison([output], conclusion=conclusion(asked, trials))
        typer.echo("compare: " + " ".join(map(str, files)))
    _close(asked, trials)


def _close(asked: Search, trials: Sequence[Trial]) -> None:
    """Name the deployment that was looked for, or end with what came closest to it."""
    from sparsekit.cli.compress_report import advice
    from sparsekit.sweep.compression import closest

    best, count = closest(trials, asked.max_latency), len(trials)
    if best is not None and best.fits(asked.max_latency):
        typer.echo(f"deployment: {printable(str(best.run.deployment))}")
        return
    reason = "none was compared"
    if best is not None:
        slow = ", which is too slow; the others are no faster" if best.passed else ""
        reason = f"the closest is {best.run}{slow}{advice(asked, best)}"
    typer.echo(printable(f"no trial meets what was asked: {reason}"), err=True)
    # Nothing else ends a search whose trials have all ended, and none passed.
    failed = all(trial.ended and not trial.passed for trial in trials)
    if count < len(asked.candidates) and failed:
        left = f"{count} of {len(asked.candidates)} trials"
        typer.echo(f"--budget ended the search after {left}; called again, it goes on", err=True)
    raise typer.Exit(1)


def _train(words: Sequence[str], run: RunFolder) -> None:
    """Run one trial in a process of its own; how it ended is in its folder `run`.

    A signal that ends the search is passed on to the trial, which saves a checkpoint and ends.
    """
    handle_signals()
    command = [sys.executable, "-m", "sparsekit", "train", *words]
    # A Ctrl-C of the terminal would reach it twice without a session of its own.
    process = subprocess.Popen(command, start_new_session=True)
    stopped = False
    while process.returncode is None:
        try:
            process.wait()
        except KeyboardInterrupt:
            stopped = True
            process.terminate()
    code = process.returncode
    if code < 0 and not stopped:
        typer.echo(printable(_killed(-code, run)), err=True)
    if code < 0 or code > 128:
        # Stopped by a signal, as the search is to be.
        raise typer.Exit(code if code > 0 else 128 - code)
    if stopped:
        raise typer.Exit(128 + signal.SIGINT)


def _killed(number: int, run: RunFolder) -> str:
    """What to say of a trial that ended at once, without a word of its own."""
    name = signal.Signals(number).name
    cause = (
        ": most likely the system ran out of memory; free some, or search in another --output with "
        "a smaller training.per_device_train_batch_size"
        if number == signal.SIGKILL
        else ""
    )
    return f"the trial in {run} was ended by {name}{cause}; called again, the search resumes it"


def _check(max_drop: float, alpha: float, epochs: float) -> None:
    """Raise UserError for what every trial would end with."""
    from sparsekit.errors import UserError
    from sparsekit.gate.gate import GateConfig

    GateConfig(max_drop=max_drop, alpha=alpha)
    if not epochs > 0:
        raise UserError(f"--epochs {epochs:g} must be more than 0")


def _file(path: Path) -> Path:
    from sparsekit.errors import UserError

    if not expanded(path).exists():
        raise UserError(f"there is no file {path}")
    return expanded(path).absolute()


def _milliseconds(text: str) -> float:
    """A latency such as 3ms, 250us or 3, in milliseconds.

    >>> _milliseconds("3ms"), _milliseconds("2.3"), _milliseconds("250us")
    (3.0, 2.3, 0.25)
    """
    from sparsekit.errors import reworded
    from sparsekit.shape.latency import duration

    with reworded(lambda message: f"--max-latency: {message}"):
        # Rounded, so that 2.3 stays 2.3: an interrupted search is compared with it.
        return round(duration(text) * 1e3, 9)


def _seconds(text: str) -> float:
    """A duration such as 90m, 2h or 30s, in seconds.

    >>> _seconds("90m"), _seconds("1.5h")
    (5400.0, 5400.0)
    """
    from sparsekit.errors import UserError

    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if found is None:
        raise UserError(f"--budget is {text!r}; write a number with s, m or h, such as 90m")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]
