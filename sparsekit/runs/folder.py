"""The run folder: which file holds what, and how a run ended. Imports no torch, no Hydra."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from sparsekit.config.plain_yaml import load_yaml
from sparsekit.errors import UserError, first_line, printable
from sparsekit.runs.paths import MARKER, RunPaths
from sparsekit.runs.summary import plain_json

# Bytes: more than the summary of a model with some hundred layers.
RESERVED = 65536

# The key of `summary.json` with the sum of all others.
SUM = "sum"
# What `summary.json` says of a run: unfinished from its evaluation until it ends or fails.
STATUSES = ("completed", "failed", "unfinished")
# The keys of `dataset` that name the columns of what a model reads.
TEXT_KEYS = (("text_columns",), ("token_column",), ("question_column", "context_column"))
# Locks that `RunFolder.hold` took for the rest of this process, by real path.
_held: dict[Path, FileLock] = {}


def _sum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a run ended: `status` is completed, failed, broken or unfinished; `error` says why.

    broken: `summary.json` cannot be read; unfinished: it does not exist.
    """

    status: str
    error: str | None = None
    hash: str | None = None
    summary: dict[str, Any] | None = None


@dataclass(frozen=True)
class RunFolder(RunPaths):
    """The folder of one run, through which its stages and all later commands meet."""

    def reserve_space(self) -> None:
        """Keep space for the summary until it is written."""
        # Random bytes, which no file system stores in less.
        self.reserve.write_bytes(os.urandom(RESERVED))

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config. Raises UserError where it is missing or cannot be read."""
        try:
            config = load_yaml(self.config_file.read_bytes(), str(self.config_file))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(self._no_run("config.yaml")) from error
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise UserError(
                f"cannot read {self.config_file}: {first_line(error)}; restore it, or train again"
            ) from error
        if not isinstance(config, dict):
            raise UserError(
                f"{self.config_file} is not the config of a run: it is not a mapping; restore it, "
                "or train again"
            )
        return config

    def _no_run(self, missing: str) -> str:
        """The message for a path that is no run folder; names the run folder around it, if any."""
        outer = next((p for p in self.path.absolute().parents[:2] if RunFolder(p).exists), None)
        fix = "" if outer is None else f"; give {outer}"
        if not self.path.exists():
            return f"there is no folder {self}{fix}"
        has = "it is a file" if self.path.is_file() else f"it has no {missing}"
        return f"{self} is not a run folder: {has}{fix}"

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write `config.yaml`."""
        text = yaml.safe_dump(dict(config), sort_keys=False)
        self.config_file.write_text(text, encoding="utf-8")

    @property
    def metric_names(self) -> list[str]:
        """The config's `dataset.metrics`. Raises UserError where the config has no such list."""
        config = self.config
        try:
            names = config["dataset"]["metrics"]
            if not isinstance(names, list):
                raise TypeError("dataset.metrics is not a list")
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{self.config_file} is not the config of a run: {first_line(error)}; restore it, "
                "or train again"
            ) from error
        return names

    @property
    def text_columns(self) -> list[str]:
        """The one or two columns that the model reads; empty where no config names them."""
        try:
            dataset = self.config["dataset"]
            keys = next(keys for keys in TEXT_KEYS if keys[0] in dataset)
            named = [dataset[key] for key in keys]
            return list(named[0]) if keys == TEXT_KEYS[0] else named
        except (UserError, KeyError, TypeError, StopIteration):
            return []  # A deployment by itself, or another tool's config.yaml beside it.

    def node(self, group: str) -> dict[str, Any] | None:
        """The config's node for `group`; None where the run left that stage out."""
        node = self.config.get(group)
        return node if isinstance(node, dict) and node.get("_target_") else None

    @property
    def summary(self) -> dict[str, Any]:
        """The content of `summary.json`. Raises UserError where it is missing or damaged."""
        try:
            summary = json.loads(self.summary_file.read_bytes())
            if not isinstance(summary, dict):
                raise ValueError("it is not a mapping")
        except OSError as error:
            if (self.path / MARKER).is_file():
                raise UserError(
                    f"{self} has no summary.json: it is still running, or it was killed before its "
                    f"model was evaluated; go on with it: sparsekit resume {self}"
                ) from error
            raise UserError(self._no_run("summary.json")) from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"cannot read {self.summary_file}: {error}") from error
        summary.pop(SUM, None)
        return summary

    @property
    def summary_intact(self) -> bool:
        """Whether `summary.json` is as a run wrote it; those of versions before 0.2 hold no sum."""
        if not self.summary_file.is_file():
            return True  # not written yet
        recorded = json.loads(self.summary_file.read_bytes()).get(SUM)
        return recorded is None or recorded == _sum(self.summary)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`, with a sum of its values, so that a reader sees it whole or not."""
        # Its space is what a full disk has left for the summary.
        self.reserve.unlink(missing_ok=True)
        temporary = self.path / ".summary.json.tmp"
        try:
            values = {**plain_json(summary)}
            text = json.dumps({**values, SUM: _sum(values)}, indent=2)
            temporary.write_text(text + "\n", encoding="utf-8")
            temporary.replace(self.summary_file)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    @property
    def ending(self) -> Ending:
        """How the run ended; never raises for what its files contain."""
        try:
            summary = json.loads(self.summary_file.read_bytes())
            if not isinstance(summary, dict) or summary.get("status") not in STATUSES:
                raise ValueError("it has no status")
        except FileNotFoundError:
            return Ending(
                status="unfinished", error="no summary.json: it is running, or it was killed"
            )
        except (OSError, ValueError, RecursionError) as error:
            return Ending(status="broken", error=f"summary.json: {error}")
        summary.pop(SUM, None)
        config, reason = summary.get("config"), summary.get("error")
        config_hash = config.get("hash") if isinstance(config, dict) else None
        return Ending(
            status=summary["status"],
            error=None if reason is None else printable(str(reason)),
            hash=config_hash if isinstance(config_hash, str) else None,
            summary=summary,
        )

    @property
    def exists(self) -> bool:
        """Whether a run ended here, or began: Hydra writes `.hydra/` before anything else."""
        return self.summary_file.is_file() or (self.path / ".hydra").is_dir()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other runs out; raises UserError where another process is at work here."""
        if self.path.resolve() in _held:
            yield
            return
        lock = self._acquire()
        try:
            yield
        finally:
            lock.release()

    def hold(self) -> None:
        """Take the lock for the rest of this process, in which `lock` then does nothing."""
        # Resolved: Hydra removes `..` from the name of the folder that this claims.
        _held[self.path.resolve()] = self._acquire()

    def _acquire(self) -> FileLock:
        lock = FileLock(self.path / ".run.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise UserError(
                f"another process is running in {self}: wait for it, or set hydra.run.dir=FOLDER"
            ) from error
        return lock


def trained_columns(folder: Path) -> list[str]:
    """The columns that the model in a run folder, or in its `deployment/`, reads.

    Empty where no config names them.
    """
    return RunFolder(folder).text_columns or RunFolder(folder.absolute().parent).text_columns
