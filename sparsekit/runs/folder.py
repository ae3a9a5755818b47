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

from sparsekit.config.yaml_limits import check_yaml
from sparsekit.errors import UserError, first_line, printable
from sparsekit.runs.summary import plain_json

# libyaml where PyYAML has it: ten times as fast, and a sweep has a thousand of these files.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# Bytes: more than the summary of a model with some hundred layers.
RESERVED = 65536

# Locks that `RunFolder.hold` took for the rest of this process.
_held: dict[Path, FileLock] = {}


# The key of `summary.json` with the sum of all others.
SUM = "sum"


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


# A file that every run leaves in its folder at its start.
MARKER = ".sparsekit-run"
# What `summary.json` says of a run: unfinished from its evaluation until it ends or fails.
STATUSES = ("completed", "failed", "unfinished")


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, through which its stages and all later commands meet.

    A property that names a file or folder gives its path, whether or not it exists.
    """

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config_file(self) -> Path:
        """`config.yaml`, the resolved config."""
        return self.path / "config.yaml"

    @property
    def summary_file(self) -> Path:
        """`summary.json`, the results."""
        return self.path / "summary.json"

    @property
    def recipe(self) -> Path:
        """`recipe.yaml`, the resolved recipe."""
        return self.path / "recipe.yaml"

    @property
    def sparseml_recipe(self) -> Path:
        """`recipe.sparseml.yaml`, the recipe that `engine=sparseml` ran."""
        return self.path / "recipe.sparseml.yaml"

    @property
    def sparseml_log(self) -> Path:
        """`sparseml.log`, what `engine=sparseml` wrote to stderr."""
        return self.path / "sparseml.log"

    @property
    def schedule(self) -> Path:
        """`schedule.json`, the recipe in optimizer steps."""
        return self.path / "schedule.json"

    @property
    def data(self) -> Path:
        """`data.json`, statistics of the data, and problems that affect the result."""
        return self.path / "data.json"

    @property
    def metrics(self) -> Path:
        """`metrics.jsonl`, every logged event."""
        return self.path / "metrics.jsonl"

    @property
    def benchmark(self) -> Path:
        """`benchmark.json`, the timings of every runtime."""
        return self.path / "benchmark.json"

    @property
    def gate(self) -> Path:
        """`gate.json`, the comparison with the dense baseline that `sparsekit gate` made."""
        return self.path / "gate.json"

    @property
    def reserve(self) -> Path:
        """`.reserve`, which keeps space for the summary while a run is at work."""
        return self.path / ".reserve"

    def reserve_space(self) -> None:
        """Keep space for the summary until it is written."""
        # Random bytes, which no file system stores in less.
        self.reserve.write_bytes(os.urandom(RESERVED))

    @property
    def wandb_id(self) -> Path:
        """`wandb/run.json`, the id of the W&B run that mirrors this one."""
        return self.path / "wandb" / "run.json"

    @property
    def checkpoints(self) -> Path:
        """`checkpoints/`, the Trainer's checkpoints."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """`model/`, the trained weights, config, tokenizer and recipe."""
        return self.path / "model"

    @property
    def weights(self) -> Path:
        """`model/model.safetensors`."""
        return self.model / "model.safetensors"

    @property
    def model_recipe(self) -> Path:
        """`model/recipe.yaml`, the recipe with what was known once training had ended."""
        return self.model / "recipe.yaml"

    @property
    def deployment(self) -> Path:
        """`deployment/`, the exported model with all that a runtime needs."""
        return self.path / "deployment"

    @property
    def graph(self) -> Path:
        """`deployment/model.onnx`."""
        return self.deployment / "model.onnx"

    @property
    def evaluations(self) -> Path:
        """`evaluation/`, one file for each split."""
        return self.path / "evaluation"

    def evaluation(self, split: str) -> Path:
        """`evaluation/<split>.parquet`: texts, labels and logits of each row."""
        return self.evaluations / f"{split}.parquet"

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config. Raises UserError where it is missing or cannot be read."""
        try:
            content = self.config_file.read_bytes()
            check_yaml(content, str(self.config_file))
            config = yaml.load(content, _Loader)
        except FileNotFoundError as error:
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
        return f"{self} is not a run folder: it has no {missing}{fix}"

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
            return list(self.config["dataset"]["text_columns"])
        except (UserError, KeyError, TypeError):
            return []  # A deployment by itself, or another tool's config.yaml beside it.

    def node(self, group: str) -> dict[str, Any] | None:
        """The config's node for `group`; None where the run left that stage out."""
        node = self.config.get(group)
        return node if isinstance(node, dict) and node.get("_target_") else None

    @property
    def overrides(self) -> list[str]:
        """The command line's overrides; empty where Hydra left none that can be read."""
        try:
            content = (self.path / ".hydra" / "overrides.yaml").read_bytes()
            check_yaml(content, "overrides.yaml")
            words = yaml.load(content, _Loader)
        except (UserError, OSError, ValueError, RecursionError, yaml.YAMLError):
            return []
        return [str(word) for word in words] if isinstance(words, list) else []

    @property
    def launched_from(self) -> tuple[Path, list[Path]]:
        """The working directory of the launcher, and the folders that `--config-dir` added.

        Raises UserError where Hydra left no settings that can be read.
        """
        if not self.path.is_dir():
            raise UserError(f"there is no run folder {self}")
        file = self.path / ".hydra" / "hydra.yaml"
        again = (
            "start the run again, or, if a SparseTrainer trained it, call "
            "train(resume_from_checkpoint=True)"
        )
        try:
            content = file.read_bytes()
            check_yaml(content, str(file))
            runtime = yaml.load(content, _Loader)["hydra"]["runtime"]
            added = [
                Path(source["path"])
                for source in runtime["config_sources"]
                if source["provider"] == "command-line"
            ]
            return Path(runtime["cwd"]), added
        except FileNotFoundError as error:
            raise UserError(
                f"{self} does not say how it was launched: there is no {file}; {again}"
            ) from error
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise UserError(f"cannot read {file}: {first_line(error)}; {again}") from error
        except (LookupError, TypeError) as error:
            raise UserError(f"{file} lacks Hydra's settings: {error}; {again}") from error

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
        if self.path.absolute() in _held:
            yield
            return
        lock = self._acquire()
        try:
            yield
        finally:
            lock.release()

    def hold(self) -> None:
        """Take the lock for the rest of this process, in which `lock` then does nothing."""
        _held[self.path.absolute()] = self._acquire()

    def _acquire(self) -> FileLock:
        lock = FileLock(self.path / ".run.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise UserError(
                f"another process is running in {self}: wait for it, or set hydra.run.dir=FOLDER"
            ) from error
        return lock
