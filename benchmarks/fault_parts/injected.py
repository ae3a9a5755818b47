"""Faults of the machine, each put into a run; it survives with one sentence at most."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from fault_parts.base import ROOT, command, start


def try_faults(run: Path, scratch: Path, inputs: list[str]) -> dict[str, int]:
    """Put each fault into a run of its own; prints those that did not survive."""
    counts = {"tried": 0, "survived": 0}
    faults: dict[str, Callable[[Path], str | None]] = {}
    for size in (20_000, 60_000, 90_000, 120_000, 200_000):
        faults[f"no file above {size} bytes"] = lambda f, s=size: _file_limit(f, inputs, s)
    for kind in sorted(path.name for path in (scratch / "cache").iterdir() if path.is_dir()):
        for harm in ("cut", "emptied", "flipped", "removed"):
            faults[f"cache: {kind} {harm}"] = lambda f, k=kind, h=harm: _cache(f, inputs, k, h)
    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        for moment in ("imports", "training"):
            faults[f"{name} in {moment}"] = lambda f, n=name, m=moment: _stop(f, inputs, n, m)
    for harm in ("cut", "emptied", "flipped", "removed"):
        faults[f"checkpoint {harm}"] = lambda f, h=harm: _checkpoint(f, run, h)
    faults["the cache is a file"] = lambda f: _environment(f, inputs, SPARSEKIT_CACHE=__file__)
    faults["HF_HOME cannot be written"] = lambda f: _environment(f, inputs, HF_HOME="/dev/null/x")
    faults["the run folder vanishes"] = lambda f: _vanish(f, inputs)
    for name, inject in faults.items():
        folder = scratch / "faulty"
        problem = inject(folder)
        shutil.rmtree(folder, ignore_errors=True)
        counts["tried"] += 1
        counts["survived"] += problem is None
        print(f"{name}: {problem or 'survived'}", flush=True)
    return counts


def _ended(folder: Path, code: int, shown: str, completed: bool) -> str | None:
    """What is wrong with the end of a run; None where it is as it should be."""
    if "Traceback" in shown:
        return f"traceback: {shown[-400:]}"
    if completed != (code == 0):
        return f"exit code {code}: {shown[-400:]}"
    summary = folder / "summary.json"
    if summary.is_file():
        status = json.loads(summary.read_text())["status"]
        return None if (status == "completed") == completed else f"status {status}"
    return None if not completed else "no summary.json"


def _file_limit(folder: Path, inputs: list[str], size: int) -> str | None:
    done = subprocess.run(
        command("train", *inputs, f"hydra.run.dir={folder}"),
        cwd=folder.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    return _ended(folder, done.returncode, done.stderr, completed=False)


def _environment(folder: Path, inputs: list[str], **environment: str) -> str | None:
    process = start(folder, inputs, **environment)
    _, shown = process.communicate()
    return _ended(folder, process.returncode, shown, completed=False)


def _harm(file: Path, harm: str) -> None:
    content = file.read_bytes()
    if harm == "removed":
        file.unlink()
    elif harm == "flipped":
        middle = len(content) // 2
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        file.write_bytes(b"" if harm == "emptied" else content[: len(content) // 2])


def _cache(folder: Path, inputs: list[str], kind: str, harm: str) -> str | None:
    """The largest file of every entry of a kind is damaged; a run makes it again."""
    entries = [path for path in _cache_folder(kind).iterdir() if path.is_dir()]
    for entry in entries:
        files = [path for path in entry.rglob("*") if path.is_file()]
        _harm(max(files, key=lambda path: path.stat().st_size), harm)
    process = start(folder, inputs)
    _, shown = process.communicate()
    return _ended(folder, process.returncode, shown, completed=True)


def _cache_folder(kind: str) -> Path:
    return Path(os.environ["SPARSEKIT_CACHE"]) / kind


def _stop(folder: Path, inputs: list[str], name: str, moment: str) -> str | None:
    process = start(folder, inputs)
    awaited = ".hydra/overrides.yaml" if moment == "imports" else "checkpoints/checkpoint-2"
    while not (folder / awaited).exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.Signals[name])
    _, shown = process.communicate()
    if process.returncode != 128 + signal.Signals[name]:
        return f"exit code {process.returncode}: {shown[-400:]}"
    if not (folder / "summary.json").is_file():
        return "no summary.json"
    summary = json.loads((folder / "summary.json").read_text())
    if summary["error"] != f"stopped by {name}":
        return f"error {summary['error']}"
    return _ended(folder, process.returncode, shown, completed=False)


def _checkpoint(folder: Path, run: Path, harm: str) -> str | None:
    """The newest checkpoint of an interrupted run is damaged: the one before is taken."""
    shutil.copytree(run, folder)
    _harm(folder / "checkpoints" / "checkpoint-6" / "optimizer.pt", harm)
    for name in ("summary.json", "model/model.safetensors"):
        (folder / name).unlink()
    done = subprocess.run(
        command("resume", str(folder)),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if "checkpoint-6 is not used" not in done.stderr:
        return f"not named: {done.stderr[-400:]}"
    name = "model/model.safetensors"
    if (folder / name).read_bytes() != (run / name).read_bytes():
        return "other weights"
    return _ended(folder, done.returncode, done.stderr, completed=True)


def _vanish(folder: Path, inputs: list[str]) -> str | None:
    process = start(folder, inputs)
    while not (folder / "checkpoints" / "checkpoint-2").exists() and process.poll() is None:
        time.sleep(0.005)
    shutil.rmtree(folder, ignore_errors=True)
    _, shown = process.communicate()
    return _ended(folder, process.returncode, shown, completed=False)
