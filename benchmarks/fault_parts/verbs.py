"""Commands on changed files, each in a fork of its own: does it answer, in time, in words?"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fault_parts.mutants import mutants

# CPU seconds, which other load on the machine does not lengthen, beyond what the command takes on
# unchanged files (`verify` and `export` trace the model anew).
LIMIT = 5
ANSWERED, TRACEBACK, SILENT = 0, 3, 4
# Run once before the first fork, so that each fork finds what they import. Their threads end with
# them, unlike those of the other runtimes.
WARM = (
    *(("recipe", "show", "{run}/recipe.yaml"), ("inspect", "{run}"), ("compare", "{run}")),
    *(("verify", "{run}"), ("predict", "{run}", "warm")),
)


@dataclass(frozen=True)
class Case:
    """A command on a copy of the run; `{run}` stands for the copy in its arguments.

    file: what is changed, relative to the run.
    strict: a changed file must be an error, since the command promises to find it.
    """

    arguments: tuple[str, ...]
    file: str
    count: int
    strict: bool = False


def plan(count: int, runtimes: list[str]) -> list[Case]:
    """About `count` mutants over all commands and kinds of file."""
    show, inspect = ("recipe", "show", "{file}"), ("inspect", "{run}")
    compare = ("compare", "{run}")
    shares: list[tuple[tuple[str, ...], str, float, bool]] = [
        (show, "recipe.yaml", 8, False),
        (show, "model/recipe.yaml", 4, False),
        (("recipe", "convert", "{file}"), "recipe.yaml", 4, False),
        (inspect, "model/model.safetensors", 6, False),
        (inspect, "model/config.json", 4, False),
        (compare, "summary.json", 10, False),
        (compare, "config.yaml", 8, False),
        (compare, "metrics.jsonl", 3, False),
        (("resume", "{run}"), "checkpoints/checkpoint-4/trainer_state.json", 3, False),
        (("resume", "{run}"), "checkpoints/checkpoint-4/optimizer.pt", 3, False),
        (("resume", "{run}"), "checkpoints/checkpoint-4/sparsekit.json", 3, False),
        (("verify", "{run}"), "summary.json", 0.3, True),
        (("verify", "{run}"), "deployment/model.onnx", 1, True),
        (("verify", "{run}"), "model/model.safetensors", 1, True),
        (("verify", "{run}"), "evaluation/validation.parquet", 1, True),
        (("verify", "{run}"), "config.yaml", 1, True),
        (("export", "{run}"), "model/model.safetensors", 0.2, False),
        (("export", "{run}"), "model/config.json", 0.2, False),
        (("export", "{run}"), "evaluation/validation.parquet", 0.1, False),
        (("export", "{run}"), "config.yaml", 0.2, False),
    ]
    for runtime in runtimes:
        verb = ("predict", "{run}", "warm and witty .", "--runtime", runtime)
        shares += [
            (verb, "deployment/model.onnx", 5, False),
            (verb, "deployment/tokenizer.json", 3, False),
            (verb, "deployment/config.json", 2, False),
        ]
    whole = sum(share for *_, share, _ in shares)
    return [
        Case(arguments, file, -(-int(count * share) // int(whole)), strict)
        for arguments, file, share, strict in shares
    ]


def answer(case: Case, run: Path, changed: bytes) -> int:
    """Run the command in this process, a fork; returns how it answered."""
    from typer.testing import CliRunner

    from sparsekit.cli.app import app
    from sparsekit.errors import UserError
    from sparsekit.training.resume import chosen_checkpoint

    file = run / case.file
    before = file.read_bytes()
    file.write_bytes(changed)
    if case.arguments[0] == "resume":
        try:
            # The part of `sparsekit resume` that reads a checkpoint.
            chosen = chosen_checkpoint("auto", run / "checkpoints")
        except UserError:
            return ANSWERED
        damaged = chosen is not None and chosen.name == "checkpoint-4" and changed != before
        return SILENT if damaged else ANSWERED
    words = [word.format(run=run, file=file) for word in case.arguments]
    result = CliRunner().invoke(app, words)
    if result.exit_code == 0:
        return SILENT if case.strict and changed != before else ANSWERED
    if isinstance(result.exception, SystemExit) and "Traceback" not in result.output:
        return ANSWERED
    import traceback

    if result.exc_info:
        traceback.print_exception(*result.exc_info)
    return TRACEBACK


def in_fork(work: Callable[[], int], log: Path, limit: int) -> tuple[str, float]:
    """What became of `work` in a fork, and its CPU seconds: answered, silent, or how it crashed."""
    begin = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = os.fork()
    if child == 0:
        with log.open("wb") as output:
            for stream in (sys.stdout, sys.stderr):
                os.dup2(output.fileno(), stream.fileno())
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            code = TRACEBACK
            try:
                code = work()
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
    deadline = time.monotonic() + 30 * limit
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:  # Asleep: it uses no CPU time.
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return ("hung" if name in ("SIGXCPU", "SIGKILL") else f"crashed: {name}"), used
    outcome = {ANSWERED: "answered", SILENT: "silent"}
    return outcome.get(os.WEXITSTATUS(status), "crashed: traceback"), used


def try_mutants(run: Path, scratch: Path, count: int, seed: int) -> dict[str, int]:
    """Try about `count` mutants; prints each that is not answered."""
    from typer.testing import CliRunner

    from sparsekit.cli.app import app
    from sparsekit.runtime.choice import RUNTIMES

    os.chdir(scratch)  # where `compare` writes its page
    usual = {}
    for words in WARM:
        begin = time.process_time()
        CliRunner().invoke(app, [word.format(run=run) for word in words])
        usual[words[0]] = time.process_time() - begin
    usual["export"] = usual["verify"]
    runtimes = [kind.name for kind in RUNTIMES if kind.missing() is None]
    counts = {"tried": 0, "answered": 0, "crashed": 0, "silent": 0}
    slowest = 0.0
    for case in plan(count, runtimes):
        begin, limit = time.monotonic(), LIMIT + round(usual.get(case.arguments[0], 0))
        for what, changed in mutants(run / case.file, case.count, seed):
            copy = scratch / "copy"
            shutil.copytree(run, copy)

            def work(case: Case = case, copy: Path = copy, changed: bytes = changed) -> int:
                return answer(case, copy, changed)

            outcome, used = in_fork(work, scratch / "output.txt", limit)
            shutil.rmtree(copy, ignore_errors=True)
            counts["tried"] += 1
            slowest = max(slowest, used)
            key = outcome if outcome in counts else "crashed"
            counts[key] += 1
            if outcome != "answered":
                output = (scratch / "output.txt").read_text(errors="replace").splitlines()
                last = next((line for line in reversed(output) if line.strip()), "")
                place = [line.strip() for line in output if "sparsekit/" in line and "File" in line]
                print(f"{outcome}: {' '.join(case.arguments)}: {case.file}: {what}: {last[:160]}")
                print(f"    {place[-1] if place else ''}")
        seconds = time.monotonic() - begin
        print(f"{' '.join(case.arguments)}: {case.file}: {seconds:.0f} s", flush=True)
    print(f"slowest: {slowest:.1f} CPU seconds")
    return counts
