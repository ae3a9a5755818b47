"""`sparsekit serve` under load: throughput, latency, memory, and every answer checked.

    python benchmarks/serving.py RUN --runtime sparse
    python benchmarks/serving.py RUN --requests 1000

Drives three servers on loopback in turns with 1, 8, 32 and 128 clients: sparsekit on the runtime
that is asked for, sparsekit on onnxruntime, and Starlette with transformers' pipeline on the model
that the run trained. Each answer of sparsekit's is compared with that of `sparsekit predict` to the
same text; an answer that is an error counts as wrong.
"""

from __future__ import annotations

import argparse
import http
import http.client
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from sparsekit.runs.folder import RunFolder
from sparsekit.runtime.answers import predict
from sparsekit.runtime.choice import runtime_named
from sparsekit.system import cpu_name

CLIENTS = (1, 8, 32, 128)
WORDS = [
    "a",
    "warm",
    "and",
    "funny",
    "film",
    "with",
    "a",
    "plot",
    "that",
    "is",
    "dull",
    "in",
    "the",
    "end",
    "but",
    "never",
    "bad",
]
# Of probabilities: int8 kernels and padding differ by less, the texts by more.
CLOSE = 0.02
PLAIN = """
import sys, torch, uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from starlette.routing import Route
from transformers import pipeline
classify = pipeline("text-classification", sys.argv[1], top_k=None, device="cpu")
async def predict(request):
    body = await request.json()
    return JSONResponse((await run_in_threadpool(classify, [body["inputs"]]))[0])
async def ready(request):
    return JSONResponse({})
routes = [Route("/predict", predict, methods=["POST"]), Route("/ready", ready)]
uvicorn.run(Starlette(routes=routes), port=int(sys.argv[2]), log_level="error")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--runtime", default="sparse")
    parser.add_argument("--requests", type=int, default=10_000, help="for each number of clients")
    parser.add_argument("--port", type=int, default=8765)
    options = parser.parse_args()
    texts = [
        " ".join(WORDS[(i * k) % len(WORDS)] for k in range(1, 3 + i % 30)) for i in range(500)
    ]
    sparsekit = [sys.executable, "-m", "sparsekit", "serve", str(options.run)]
    servers = {
        f"sparsekit, {name}": ([*sparsekit, "--runtime", name, "--port", str(options.port)], name)
        for name in dict.fromkeys((options.runtime, "onnxruntime"))
    }
    model = str(RunFolder(options.run).model)
    plain = [sys.executable, "-c", PLAIN, model, str(options.port)]
    print(f"{cpu_name()}, {os.cpu_count()} cores")
    for name, (command, runtime) in {**servers, "transformers": (plain, None)}.items():
        found = answers_of(options.run, texts, runtime)
        measure(name, command, options.port, texts, found, options.requests)


def answers_of(run: Path, texts: list[str], runtime: str | None) -> list[dict[str, float]] | None:
    """The probabilities of each text; None for a server whose answers are not ours."""
    if runtime is None:
        return None
    kind = runtime_named(runtime)
    return [answer["scores"] for answer in predict(RunFolder(run).deployment, texts, None, kind)]


def measure(
    name: str,
    command: list[str],
    port: int,
    texts: list[str],
    expected: list[dict[str, float]] | None,
    requests: int,
) -> None:
    """Print a line for each number of clients."""
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait(server, port)
        drive(port, texts, expected, 8, 200)
        start = memory(server.pid)
        for clients in CLIENTS:
            began = time.perf_counter()
            seconds, wrong = drive(port, texts, expected, clients, requests)
            rate = len(seconds) / (time.perf_counter() - began)
            cuts = statistics.quantiles(seconds, n=100)
            compared = f"{wrong} wrong" if expected is not None else f"{wrong} missing"
            print(
                f"{name:24} {clients:4} clients {rate:8.0f}/s  p50 {cuts[49] * 1e3:7.1f} ms  "
                f"p99 {cuts[98] * 1e3:7.1f} ms  {len(seconds)} answers, {compared}",
                flush=True,
            )
        print(
            f"{name:24} memory {start:.0f} MB, {memory(server.pid):.0f} MB at the end", flush=True
        )
    finally:
        server.terminate()
        server.wait()


def drive(
    port: int,
    texts: list[str],
    expected: list[dict[str, float]] | None,
    clients: int,
    requests: int,
) -> tuple[list[float], int]:
    """The seconds of each answered request, and how many answers were wrong, errors or missing."""
    seconds: list[float] = []
    wrong: list[int] = []

    def client(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        for index in range(first, requests, clients):
            text = index * 7 % len(texts)
            began = time.perf_counter()
            connection.request("POST", "/predict", json.dumps({"inputs": texts[text]}))
            response = connection.getresponse()
            answer = json.loads(response.read())
            if response.status != http.HTTPStatus.OK:
                continue
            seconds.append(time.perf_counter() - began)
            scores = {each["label"]: each["score"] for each in answer}
            if expected is not None and not same(scores, expected[text]):
                wrong.append(index)

    threads = [threading.Thread(target=client, args=(first,)) for first in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seconds, len(wrong) + requests - len(seconds)


def same(found: dict[str, float], expected: dict[str, float]) -> bool:
    return found.keys() == expected.keys() and all(
        abs(found[label] - score) < CLOSE for label, score in expected.items()
    )


def wait(server: subprocess.Popen[bytes], port: int) -> None:
    """Until the server answers."""
    while True:
        if server.poll() is not None:
            sys.exit(f"the server ended with {server.returncode}: {server.args}")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/ready")
            connection.getresponse().read()
            return
        except OSError:
            time.sleep(0.2)


def memory(process: int) -> float:
    """The resident megabytes of a process."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
