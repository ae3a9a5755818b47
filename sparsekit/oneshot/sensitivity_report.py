"""`sparsekit sensitivity`: measures a checkpoint's layers and writes what follows from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.table import Table

from sparsekit.errors import ConfigError, UserError
from sparsekit.models.hub import fetch_model
from sparsekit.models.inspection import inspect
from sparsekit.models.loading import check_encoder, load_weights, read_config
from sparsekit.oneshot.allocation import allocate
from sparsekit.oneshot.calibration import draw
from sparsekit.oneshot.checkpoint import Data, architecture_of, calibration_rows
from sparsekit.oneshot.sensitivity import (
    LayerSensitivity,
    mean_loss,
    pruned_layers,
    sensitivities,
)
from sparsekit.sparsity.prunable import nothing_prunable, prunable
from sparsekit.sparsity.pruned import is_pruned

RECIPE = "by_sensitivity"
# Passes the layers on while they are measured, as a progress bar does; the number is theirs.
Shown = Callable[[Iterator[LayerSensitivity], int], Iterable[LayerSensitivity]]


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What was measured of a checkpoint.

    loss: the mean loss of the model as it is.
    allocation: the share of zeros chosen for each layer; None where no total was asked for.
    allocated, uniform: the growth of the loss with all layers pruned, by the allocation and all to
        the same share.
    """

    model: str
    rows: int
    loss: float
    layers: list[LayerSensitivity]
    sparsity: float | None = None
    allocation: dict[str, float] | None = None
    allocated: float | None = None
    uniform: float | None = None


def measure(
    source: str,
    data: Data,
    *,
    shares: Sequence[float],
    sparsity: float | None,
    rows: int,
    seed: int,
    shown: Shown,
) -> Sensitivity:
    """Measure the layers of `source` (run folder, model folder or Hub id).

    Args:
        source: a dense fine-tuned classifier.
        data: labelled rows of its task.
        shares: the shares of zeros to try in each layer.
        sparsity: the total that is to be shared among the layers; None for none.
        rows: number of rows, drawn at random, on which the loss is measured; at most all.
        seed: of the drawing.
        shown: what the layers pass through.

    Raises:
        ConfigError: settings out of their limits, before anything is read.
        UserError: a checkpoint that is no dense classifier of the data's labels.
    """
    check(shares, sparsity, rows)
    folder = _dense_folder(source)
    architecture = read_config(folder)
    check_encoder(folder, architecture)
    model, missing = load_weights(folder, architecture_of(architecture), "measuring")
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    if problem := nothing_prunable(model):
        raise UserError(problem)
    labelled, collate = calibration_rows(source, folder, model, missing, data, "sensitivity")
    # More would be the same rows again.
    rows = min(rows, len(labelled))
    batches = list(draw(labelled, collate, rows, seed))
    layers = prunable(model)
    measured = list(shown(sensitivities(model, layers, batches, shares), len(layers)))
    loss = mean_loss(model, batches)
    found = Sensitivity(model=source, rows=rows, loss=loss, layers=measured)
    if sparsity is None:
        return found
    allocation = allocate(measured, sparsity)
    with pruned_layers(layers, allocation):
        allocated = mean_loss(model, batches) - loss
    with pruned_layers(layers, dict.fromkeys(layers, sparsity)):
        uniform = mean_loss(model, batches) - loss
    return replace(
        found, sparsity=sparsity, allocation=allocation, allocated=allocated, uniform=uniform
    )


def _dense_folder(source: str) -> Path:
    """The checkpoint's folder; raises UserError where it is compressed already."""
    folder = fetch_model(source)
    inspected = inspect(str(folder))
    if inspected.quantized or is_pruned(inspected.sparsity):
        state = "quantized" if inspected.quantized else f"pruned ({inspected.sparsity:.1%} zeros)"
        raise UserError(
            f"{source} is {state} already: give the dense model in float32 that it was made from"
        )
    return folder


def check(shares: Sequence[float], sparsity: float | None, rows: int) -> None:
    """Raise ConfigError for settings out of their limits."""
    problems = [
        f"{option} {value:g} must lie between 0 and 1"
        for option, values in (("--share", shares), ("--sparsity", [sparsity]))
        for value in values
        if value is not None and not 0 < value < 1
    ]
    if len(set(shares)) < len(shares):
        problems.append(f"--share {' '.join(f'{share:g}' for share in shares)}: one is repeated")
    if sparsity is not None and not problems and sparsity > max(shares):
        problems.append(
            f"--sparsity {sparsity:g} is more than the largest share that is measured, "
            f"{max(shares):g}; add --share {(1 + sparsity) / 2:.3g}"
        )
    if rows < 1:
        problems.append(f"--rows {rows} must be 1 or more")
    if problems:
        raise ConfigError(problems)


def write(found: Sensitivity, folder: Path) -> None:
    """Write `sensitivity.json` and, of an allocation, a recipe to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(found), indent=2) + "\n"
    (folder / "sensitivity.json").write_text(text, encoding="utf-8")
    if found.allocation is None:
        return
    file = folder / "recipe" / f"{RECIPE}.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(_recipe(found, found.allocation), encoding="utf-8")


def _recipe(found: Sensitivity, allocation: Mapping[str, float]) -> str:
    """A recipe that prunes each layer gradually to its share."""
    groups: dict[float, list[str]] = {}
    for name, share in sorted(allocation.items(), key=lambda item: -item[1]):
        groups.setdefault(share, []).append(f"{name}.weight")
    values: dict[str, Any] = {
        "defaults": ["from_dense", "_self_"],
        "final_sparsity": groups,
        # Ranking all layers together would choose other shares than those of the table.
        "obs_global": False,
        # from_dense asks whether final_sparsity is above 0, which a table is not compared with.
        "modifiers": {
            "pruning": {"enabled": _if_gradients("<= 0"), "params": []},
            "obs": {"enabled": _if_gradients("> 0"), "params": [], "global_sparsity": False},
        },
    }
    header = (
        f"# A sparsity for each layer, {found.sparsity:.1%} over all of them, chosen by\n"
        f"# sparsekit sensitivity. Use it with --config-dir FOLDER recipe={RECIPE} teacher=self.\n"
        "# Optimal Brain Surgeon prunes each layer to its own share: ranking all layers together\n"
        "# (obs_global) would choose other shares.\n"
    )
    return header + yaml.safe_dump(values, sort_keys=False, width=100)


def _if_gradients(comparison: str) -> str:
    return f"${{calc:'abs(${{recipe.obs_gradients}}) {comparison}'}}"


def table(found: Sensitivity) -> Table:
    """The layers as a table, with what each would cost."""
    shares = list(found.layers[0].pruned)
    view = Table(title=f"Growth of the loss ({found.loss:.4f} on {found.rows} rows), by layer")
    view.add_column("layer", no_wrap=True)
    view.add_column("weights", justify="right")
    for share in shares:
        view.add_column(f"{share:.0%} zeros", justify="right")
    view.add_column("int8", justify="right")
    if found.allocation:
        view.add_column("chosen zeros", justify="right")
    for layer in found.layers:
        cells = [layer.name, f"{layer.weights:,}", *(f"{v:+.4f}" for v in layer.pruned.values())]
        chosen = [f"{found.allocation[layer.name]:.1%}"] if found.allocation else []
        view.add_row(*cells, f"{layer.int8:+.4f}", *chosen)
    return view
