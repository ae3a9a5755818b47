"""Measures how long each size of a layer takes: models of random weights, timed in turns."""

from __future__ import annotations

import copy
import logging
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from sklearn.isotonic import isotonic_regression
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from sparsekit.benchmark.grid import example
from sparsekit.errors import ConfigError
from sparsekit.models.loading import positions_of
from sparsekit.models.pruning import prune
from sparsekit.onnx.layers import read_layers
from sparsekit.onnx.write import write_graphs
from sparsekit.runtime.base import Runtime
from sparsekit.shape.blocks import blocks
from sparsekit.shape.config import KEY as SHAPE
from sparsekit.shape.config import Shape, shaped
from sparsekit.shape.kept import MULTIPLE, Kept, largest_sizes
from sparsekit.shape.latency import Costs, LatencyTable, machine
from sparsekit.shape.removal import remove
from sparsekit.tasks.base import Task
from sparsekit.tasks.text_classification import TextClassification
from sparsekit.tasks.token_classification import TokenClassification

log = logging.getLogger(__name__)

# Looking up a token costs the same in a table of any size.
TOKENS = 1000
# The widths that are measured: each is this much of the next larger one, as in ZipLM.
WIDTH_RATIO = 0.6
NARROWEST = 1 / 32
# A file by itself is timed so often, and for so many seconds: the least finds a quiet moment.
RUNS = 48
LEAST_TOTAL = 1.0

Sizes = Sequence[tuple[int, int]]  # heads and neurons of each layer
Key = TypeVar("Key")
Point = tuple[tuple[int, int], tuple[int, int]]  # heads and neurons of the layers, of the last one


@dataclass(frozen=True, kw_only=True)
class LatencyGrid:
    """What is measured.

    every_token: models whose last layer computes all tokens, as token classification and question
        answering need; otherwise the first one alone, as the classification of texts does.
    sparsities: shares of zeros in the weights of the layers. int8: weights and inputs quantized.
    rounds, repetitions: in each round each model is timed `repetitions` times. seconds: rounds are
    added until those of a sparsity have taken so long, since small models need many of them.
    """

    threads: int
    batch: int = 1
    sequence: int = 128
    sparsities: tuple[float, ...] = (0.0,)
    int8: bool = True
    every_token: bool = False
    rounds: int = 8
    repetitions: int = 5
    seconds: float = 20.0

    def problems(self) -> list[str]:
        """Problems of the settings, each with the option, its limit and the fix."""
        found = [
            f"--{name} {value} must be 1 or more"
            for name, value in (
                ("threads", self.threads),
                ("batch", self.batch),
                ("sequence", self.sequence),
                ("rounds", self.rounds),
                ("repetitions", self.repetitions),
            )
            if value < 1
        ]
        if not 0 <= self.seconds < math.inf:
            found.append(f"--seconds {self.seconds:g} must be at least 0, and finite")
        return found + [
            f"--sparsity {share:g} must be at least 0 and less than 1"
            for share in self.sparsities
            if not 0 <= share < 1
        ]


def measure_table(
    config: PreTrainedConfig, runtime: type[Runtime], grid: LatencyGrid
) -> LatencyTable:
    """The latency table of models of this config.

    Raises UserError for settings that do not fit, and for a model that the runtime cannot run.
    """
    problems = grid.problems()
    limit = positions_of(config)
    if limit is not None and grid.sequence > limit:
        problems.append(f"--sequence {grid.sequence} is more than the {limit} positions; set less")
    if problems:
        raise ConfigError(problems)
    model = random_model(config, grid.every_token)
    points = grid_sizes(model)
    costs = {}
    for sparsity in grid.sparsities:
        seconds = time_sizes(model, runtime, grid, points, sparsity)
        costs[f"{sparsity:g}"] = fit_costs(seconds, len(blocks(model)))
    return LatencyTable(
        machine=machine(),
        model=largest_sizes(model),
        runtime=runtime.name,
        threads=grid.threads,
        batch=grid.batch,
        sequence=grid.sequence,
        int8=grid.int8,
        every_token=grid.every_token,
        costs=costs,
    )


def widths_up_to(width: int) -> list[int]:
    """The feed-forward widths that are measured, from 0 to `width`.

    >>> widths_up_to(128)
    [0, 8, 16, 24, 48, 80, 128]
    """
    found, current = {0, width}, float(width)
    while (current := current * WIDTH_RATIO) > width * NARROWEST:
        found.add(max(MULTIPLE, round(current / MULTIPLE) * MULTIPLE))
    return sorted(found)


def grid_sizes(model: PreTrainedModel) -> dict[Point, Sizes]:
    """The sizes of the models that a table of `model` is made from, in each layer."""
    layers, most = len(blocks(model)), largest_sizes(model)
    points = _points(range(most["heads"] + 1), widths_up_to(most["neurons"]))
    return {point: [*[point[0]] * (layers - 1), point[1]] for point in points}


def _points(heads: Sequence[int], widths: Sequence[int]) -> list[Point]:
    # The smallest that every runtime takes: one head in the last layer.
    found: list[Point] = [((0, 0), (1, 0))]
    found += [((count, 0), (1, 0)) for count in heads if count]
    found += [((0, width), (1, 0)) for width in widths if width]
    found += [((0, 0), (heads[-1], 0)), ((0, 0), (1, widths[-1]))]
    return list(dict.fromkeys(found))


def fit_costs(seconds: Mapping[Point, float], layers: int) -> Costs:
    """The costs of the parts of a model of so many layers, of the seconds at each point."""
    heads = sorted({point[0][0] for point in seconds})
    widths = sorted({point[0][1] for point in seconds})
    smallest = seconds[(0, 0), (1, 0)]
    others = max(layers - 1, 1)
    # What a head of the last layer costs is known from the difference between one and all.
    more = max(0.0, seconds[(0, 0), (heads[-1], 0)] - smallest)
    per_head = more / max(heads[-1] - 1, 1)
    last_neurons = max(0.0, seconds[(0, 0), (1, widths[-1])] - smallest)
    return Costs(
        base=smallest - per_head,
        heads=_increasing({n: (seconds[(n, 0), (1, 0)] - smallest) / others for n in heads}),
        neurons=_increasing({n: (seconds[(0, n), (1, 0)] - smallest) / others for n in widths}),
        last_heads={n: per_head * n for n in heads},
        last_neurons={n: last_neurons * n / widths[-1] for n in widths},
    )


def _increasing(costs: Mapping[int, float]) -> dict[int, float]:
    """The closest costs that do not fall as units are added: what falls is noise.

    The first costs nothing, and none costs less.
    """
    values = np.maximum(list(costs.values()), 0.0)
    return dict(zip(costs, isotonic_regression(values).tolist(), strict=True))


def random_model(config: PreTrainedConfig, every_token: bool = False) -> PreTrainedModel:
    """A model of random weights with few tokens, which is as fast as a trained one.

    Where layers differ in size, all of them are as large as the largest. every_token: its last
    layer computes all tokens, as for a task that reads them, not the first alone.
    """
    config = copy.deepcopy(config)
    if (shape := Shape.read(config)) is not None:
        heads, layers = [*range(max(map(len, shape.heads)))], len(shape.heads)
        widest = [max(shape.neurons)] * layers
        largest = {"heads": [heads] * layers, "neurons": widest, "hidden": shape.hidden}
        setattr(config, SHAPE, largest)
    config.vocab_size = min(config.vocab_size, max(TOKENS, (config.pad_token_id or 0) + 1))
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    head = shaped(_task(every_token).head, config)
    build = head._from_config if issubclass(head, PreTrainedModel) else head.from_config
    model: PreTrainedModel = build(config)
    model.eval()
    return model


def _task(every_token: bool) -> Task:
    return TokenClassification() if every_token else TextClassification()


def time_sizes(
    model: PreTrainedModel,
    runtime: type[Runtime],
    grid: LatencyGrid,
    sizes: Mapping[Key, Sizes],
    sparsity: float,
) -> dict[Key, float]:
    """The seconds of the model at each of `sizes`, in turns: the least, since noise only adds."""
    loaded: dict[Key, Runtime] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for number, (key, layers) in enumerate(sizes.items(), 1):
            log.info("%d of %d: sparsity %g, %s", number, len(sizes), sparsity, key)
            file = Path(scratch) / f"{number}.onnx"
            write_size(model, layers, file, runtime.forms[0], grid, sparsity)
            loaded[key] = runtime(file, grid.threads)
        inputs = example(grid.batch, grid.sequence, model.config.vocab_size)
        times: dict[Key, list[float]] = {key: [] for key in sizes}
        begin, done = time.monotonic(), 0
        while done < grid.rounds or time.monotonic() - begin < grid.seconds:
            for key, each in loaded.items():
                # The first run after another model's finds cold caches.
                each.seconds(inputs)
                times[key] += [each.seconds(inputs) for _ in range(grid.repetitions)]
            done += 1
    return {key: min(found) for key, found in times.items()}


def least_seconds(runtime: Runtime, batch: int, sequence: int, vocabulary: int) -> float:
    """The least of the durations of many runs on random tokens, as a table has it.

    vocabulary: the number of tokens that the model knows.
    """
    inputs, found = example(batch, sequence, min(TOKENS, vocabulary)), list[float]()
    while len(found) < RUNS or sum(found) < LEAST_TOTAL:
        found.append(runtime.seconds(inputs))
    return min(found)


def write_size(
    model: PreTrainedModel,
    sizes: Sizes,
    file: Path,
    form: str,
    grid: LatencyGrid,
    sparsity: float,
) -> None:
    """Write the graph of a model, cut to the heads and neurons of each layer, in a form.

    sparsity: zeros in what is left of the layers' weights.
    """
    made, kept = copy.deepcopy(model), Kept.all(model)
    kept = Kept(
        layers=kept.layers,
        heads=tuple(torch.arange(heads) for heads, _ in sizes),
        neurons=tuple(torch.arange(neurons) for _, neurons in sizes),
        hidden=kept.hidden,
    )
    remove(made, kept)
    if sparsity:
        prune(made, sparsity)
    state: dict[str, Tensor] = dict(made.state_dict())
    if grid.int8:
        state |= _quantizers(made)
    layers = read_layers(made, state)
    write_graphs(made, _task(grid.every_token), layers, file, file.with_suffix(".traced"), form)
    file.with_suffix(".traced").unlink()


def _quantizers(model: nn.Module) -> dict[str, Tensor]:
    """Plausible quantizers of each Linear layer's weight and input, by their names in a state."""
    found: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            found[f"{name}.weight_quantizer.scale"] = module.weight.detach().abs().max() / 127
            found[f"{name}.weight_quantizer.zero_point"] = torch.tensor(0)
            found[f"{name}.input_quantizer.scale"] = torch.tensor(8 / 255)
            found[f"{name}.input_quantizer.zero_point"] = torch.tensor(128)
    return found
