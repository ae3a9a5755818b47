"""Timings of several candidates, taken in turns, so that a busy moment slows all of them."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsekit.benchmark.candidates import Candidate
from sparsekit.errors import UserError
from sparsekit.runtime.base import Inputs, Runtime, check_threads

log = logging.getLogger(__name__)

Seconds = npt.NDArray[np.float64]

# Default sequence lengths, in tokens.
SEQUENCES = (32, 128)


@dataclass(kw_only=True)
class Grid:
    """Every batch size with every sequence length, each `rounds` times `repetitions` runs.

    Without sequence lengths these are 32 and 128, limited to the model's positions.
    """

    batches: Sequence[int] = (1, 32)
    sequences: Sequence[int] = ()
    rounds: int = 8
    repetitions: int = 5
    threads: int = 1

    def fitted(self, positions: int) -> Grid:
        """The grid for a model with `positions` positions.

        Raises UserError for sizes that are not positive, and for sequences that are too long.
        """
        if not self.sequences:
            fitting = dict.fromkeys(min(length, positions) for length in SEQUENCES)
            return replace(self, sequences=tuple(fitting)).fitted(positions)
        sizes = [*self.batches, *self.sequences, self.rounds, self.repetitions, self.threads]
        if min(sizes) < 1:
            raise UserError(f"{min(sizes)} among the benchmark's sizes: each must be at least 1")
        check_threads(self.threads, "--threads")
        if max(self.sequences) > positions:
            raise UserError(
                f"sequence {max(self.sequences)} is longer than the model's {positions} positions; "
                f"choose --sequence {positions} or less"
            )
        return self

    def cells(self) -> list[tuple[int, int]]:
        return [(batch, length) for batch in self.batches for length in self.sequences]


def time_all(candidates: Sequence[Candidate], grid: Grid, vocabulary: int) -> list[dict[str, Any]]:
    """One row for each candidate and size; speed-ups are relative to the first candidate.

    Latencies are in milliseconds. Memory is in bytes: the growth of this process while the
    candidate was loaded and first run, or the whole of the candidate's own process. One that cannot
    run is left out, with a warning that says why.
    """
    timed, runtimes, memory = [], [], []
    for candidate in candidates:
        before = resident()
        try:
            runtime = candidate.runtime(candidate.file, grid.threads)
            for batch, length in grid.cells():
                runtime.run(example(batch, length, vocabulary))
        except UserError as error:
            if candidate is candidates[0]:
                raise
            log.warning("not timed: %s: %s", candidate.name, error)
            continue
        timed.append(candidate)
        runtimes.append(runtime)
        memory.append(runtime.describe().get("rss_bytes") or resident() - before)
    rows: list[dict[str, Any]] = []
    for batch, length in grid.cells():
        seconds = _in_turns(runtimes, example(batch, length, vocabulary), grid)
        for candidate, runtime, used, times in zip(timed, runtimes, memory, seconds, strict=True):
            milliseconds = times * 1e3
            rows.append(
                {
                    "name": candidate.name,
                    "form": candidate.form,
                    "batch": batch,
                    "sequence": length,
                    "latency_ms_p50": float(np.percentile(milliseconds, 50)),
                    "latency_ms_p99": float(np.percentile(milliseconds, 99)),
                    "items_per_second": float(batch / times.mean()),
                    "speedup": speedup(seconds[0], times),
                    "memory_bytes": used,
                    "file_bytes": candidate.file.stat().st_size,
                    **{k: v for k, v in runtime.describe().items() if k != "rss_bytes"},
                }
            )
    return rows


def speedup(first: Seconds, times: Seconds) -> float:
    """How many times faster than `first`: the median over rounds of the ratio of their medians.

    On a shared machine, the runs of one round see the same load; rounds minutes apart do not.

    >>> speedup(np.array([[4.0, 4, 4], [9, 9, 9]]), np.array([[2.0, 2, 9], [3, 3, 3]]))
    2.5
    """
    return float(np.median(np.median(first, axis=1) / np.median(times, axis=1)))


def _in_turns(runtimes: Sequence[Runtime], inputs: Inputs, grid: Grid) -> list[Seconds]:
    """Seconds of each run of each runtime, [rounds, repetitions].

    The first of each turn, with cold caches, is dropped.
    """
    seconds: list[list[list[float]]] = [[] for _ in runtimes]
    for _ in range(grid.rounds):
        for runtime, rounds in zip(runtimes, seconds, strict=True):
            runtime.run(inputs)
            rounds.append([runtime.seconds(inputs) for _ in range(grid.repetitions)])
    return [np.array(rounds) for rounds in seconds]


def example(batch: int, length: int, vocabulary: int) -> Inputs:
    """Rows of random tokens without padding, int64 [batch, length].

    Raises UserError where they do not fit into memory.
    """
    try:
        ids = np.random.default_rng(0).integers(0, vocabulary, (batch, length))
    except MemoryError as error:
        raise UserError(
            f"a batch of {batch:,} x {length:,} tokens does not fit into memory; choose a smaller "
            "--batch"
        ) from error
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids * 0}


def resident() -> int:
    """Resident memory of this process in bytes; 0 on systems without `/proc`."""
    file = Path("/proc/self/statm")
    if not file.is_file():
        return 0
    return int(file.read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")
