"""Latency and throughput of a run's deployment on its own validation data."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding

from sparsekit.config.build import build, check_origin, locate
from sparsekit.errors import UserError
from sparsekit.runs.folder import RunFolder
from sparsekit.runtime.base import Runtime, check_threads
from sparsekit.runtime.encoder import TextEncoder
from sparsekit.runtime.evaluation_table import read_texts
from sparsekit.runtime.tasks.file import read_task
from sparsekit.system import cores, cpu_name, cpu_units

# The keys that summary.json has for each runtime.
SUMMARY = ("latency_ms_p50", "latency_ms_p99", "items_per_second")


@dataclass(kw_only=True)
class BenchmarkConfig:
    """What to time. `threads: null` uses every core that this process may use.

    Latency is measured on single requests at their own length, throughput on batches in the data's
    order, padded to their longest row. Neither includes tokenizing, which is reported separately.
    """

    runtime: str = "sparsekit.runtime.onnxruntime.OnnxRuntime"
    requests: int = 200
    batches: int = 20
    batch_size: int = 32
    warmup: int = 10
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("requests", "batches", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"runtime.{name} is {getattr(self, name)}, it must be at least 1")
        if self.threads is not None and self.threads < 1:
            raise UserError(
                f"runtime.threads is {self.threads}, it must be at least 1, or null for every core"
            )
        if self.threads is not None:
            check_threads(self.threads, "runtime.threads")
        if self.warmup < 0:
            raise UserError(f"runtime.warmup is {self.warmup}, it must be at least 0")
        if install := self.kind.missing():
            raise UserError(f"runtime.runtime {self.runtime} is not installed: {install}")

    @property
    def kind(self) -> type[Runtime]:
        """The class that `runtime` names."""
        try:
            kind: type[Runtime] = locate(self.runtime)
        except ImportError as error:
            raise UserError(
                f"runtime.runtime {self.runtime!r} cannot be imported; choose a runtime of "
                "conf/runtime/"
            ) from error
        return kind


def requests_of(run: RunFolder) -> BenchmarkConfig | None:
    """The settings by which the run times requests; None where its config asks for no timing.

    Raises UserError for a runtime of a module outside of sparsekit that is not imported yet.
    """
    node = run.node("runtime")
    if node is None:
        return None
    # BenchmarkConfig imports the class that it names.
    if isinstance(name := node.get("runtime"), str):
        check_origin(name, "runtime.runtime")
    config: BenchmarkConfig = build(node, "runtime", BenchmarkConfig)
    return config


def benchmark(
    run: Path, config: BenchmarkConfig, others: Sequence[type[Runtime]] = ()
) -> dict[str, Any]:
    """Time `run`'s deployment on the config's runtime and on `others`, one after the other.

    Writes `benchmark.json`, returns the `summary.runtime` dict.
    """
    folder = RunFolder(run)
    deployment, validation = folder.deployment, folder.evaluation("validation")
    if not validation.is_file():
        raise UserError(
            f"there is no {validation}, whose rows would be timed; benchmark a run that has a "
            "validation split (eval_dataset of a SparseTrainer)"
        )
    answers, encoder = read_task(deployment), TextEncoder(deployment)
    count = max(config.requests, config.batches * config.batch_size)
    texts = read_texts(validation, answers.columns, "to time")
    texts = {name: column[:count] for name, column in texts.items()}
    started = time.perf_counter()
    encodings = answers.encode_table(encoder, texts)
    tokenize_ms = (time.perf_counter() - started) / len(encodings) * 1e3
    timings = {}
    for kind in dict.fromkeys([config.kind, *others]):
        runtime = kind(folder.graph, config.threads or cores())
        timings[kind.name] = _timings(runtime, encoder, encodings, config)
    lengths = [len(encoding) for encoding in encodings]
    details = {
        "config": asdict(config),
        "cpu": cpu_name(),
        "cpu_units": cpu_units(),
        "tokens": {f"p{p}": float(np.percentile(lengths, p)) for p in (50, 99)},
        "tokenize_ms": tokenize_ms,
        "runtimes": timings,
    }
    folder.benchmark.write_text(json.dumps(details, indent=2) + "\n", encoding="utf-8")
    return {name: {key: timing[key] for key in SUMMARY} for name, timing in timings.items()}


def _timings(
    runtime: Runtime, encoder: TextEncoder, encodings: Sequence[Encoding], config: BenchmarkConfig
) -> dict[str, Any]:
    """The entry of one runtime in `benchmark.json`."""
    single = _time(runtime, encoder, encodings, 1, config.requests, config.warmup)
    batched = _time(runtime, encoder, encodings, config.batch_size, config.batches, config.warmup)
    return {
        "latency_ms_p50": float(np.percentile(single, 50) * 1e3),
        "latency_ms_p99": float(np.percentile(single, 99) * 1e3),
        "items_per_second": config.batch_size * len(batched) / sum(batched),
        **runtime.describe(),
        "latency_ms": [seconds * 1e3 for seconds in single],
        "batch_ms": [seconds * 1e3 for seconds in batched],
    }


def _time(
    runtime: Runtime,
    encoder: TextEncoder,
    encodings: Sequence[Encoding],
    batch_size: int,
    repetitions: int,
    warmup: int,
) -> list[float]:
    """Seconds of each of `repetitions` runs on batches of real rows, repeated as needed."""
    rows = cycle(encodings)
    batches = [encoder.batch(list(islice(rows, batch_size))) for _ in range(repetitions)]
    for inputs in islice(cycle(batches), warmup):
        runtime.run(inputs)
    return [runtime.seconds(inputs) for inputs in batches]
