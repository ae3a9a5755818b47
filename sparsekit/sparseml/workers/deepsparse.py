"""Runs DeepSparse engines in the peer environment, with requests on stdin and answers on stdout.

A request is one JSON line {"shape": [batch, sequence], "inputs": n} and n int64 arrays of that
shape as raw bytes; an answer is one JSON line {"shapes": [[batch, ...], ...], "seconds": s} and
the float32 bytes of each output. The first line of output is {"version": ...}. Imports nothing of
sparsekit.
"""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np

# Engines that are kept, each with its own copy of the weights.
ENGINES = 16


def main(model: str, threads: int) -> None:
    # Libraries print to stdout, so answers are written to a copy of it and stdout to stderr.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    import deepsparse

    engines = {}
    answers.write(json.dumps({"version": deepsparse.__version__}).encode() + b"\n")
    answers.flush()
    requests = sys.stdin.buffer
    while line := requests.readline():
        request = json.loads(line)
        batch, sequence = request["shape"]
        size = batch * sequence * 8
        arrays = [
            np.frombuffer(requests.read(size), np.int64).reshape(batch, sequence)
            for _ in range(request["inputs"])
        ]
        engine = engines.pop((batch, sequence), None)
        if engine is None:
            while len(engines) >= ENGINES:
                del engines[next(iter(engines))]
            engine = deepsparse.Engine(
                model,
                batch_size=batch,
                num_cores=threads,
                input_shapes=[[batch, sequence]] * len(arrays),
            )
        # At the end: the first one was used longest ago.
        engines[batch, sequence] = engine
        started = time.perf_counter()
        outputs = engine.run(arrays)
        seconds = time.perf_counter() - started
        header = {
            "shapes": [list(output.shape) for output in outputs],
            "seconds": seconds,
            "supported": engine.fraction_of_supported_ops,
            "rss_bytes": resident(),
        }
        answers.write(json.dumps(header).encode() + b"\n")
        for output in outputs:
            answers.write(np.ascontiguousarray(output, np.float32).tobytes())
        answers.flush()


def resident() -> int:
    """Resident memory of this process in bytes."""
    with open("/proc/self/statm", encoding="utf-8") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
