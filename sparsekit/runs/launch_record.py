"""How a run was launched, as Hydra recorded it in the run's folder. Imports no torch, no Hydra."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from sparsekit.config.plain_yaml import load_yaml
from sparsekit.errors import UserError, first_line
from sparsekit.runs.paths import RunPaths

_AGAIN = (
    "start the run again, or, if a SparseTrainer trained it, call "
    "train(resume_from_checkpoint=True)"
)


# The folder that Hydra writes its record to, and the files of an earlier run's that it overwrites
# before the job is checked.
_launched: Path | None = None
_overwritten: dict[Path, bytes] = {}


def keep_record(run: RunPaths) -> None:
    """Remember the record of the run that began in `run`, if one did, before Hydra overwrites it.

    Without it, `resume` and `rerun` would repeat a job that was refused in the run's folder.
    """
    global _launched
    _launched = run.path.resolve()
    if run.config_file.is_file():
        files = (_launched / ".hydra").glob("*.yaml")
        _overwritten.update({file: file.read_bytes() for file in files})


def accept_record(run: RunPaths) -> None:
    """Forget the earlier record: the job was accepted, and replaces the run or goes on with it.

    Where `output_dir` is another folder than Hydra's, the record is copied to it for `resume`.
    """
    _overwritten.clear()
    if _launched is not None and _launched != run.path.resolve():
        with suppress(FileNotFoundError):  # hydra.output_subdir=null writes none
            shutil.copytree(_launched / ".hydra", run.path / ".hydra", dirs_exist_ok=True)


def restore_record() -> None:
    """Write the earlier record again, unless the job was accepted."""
    for file, content in _overwritten.items():
        file.write_bytes(content)
    _overwritten.clear()


def overrides_of(run: RunPaths) -> list[str]:
    """The command line's overrides; empty where Hydra left none that can be read."""
    try:
        content = (run.path / ".hydra" / "overrides.yaml").read_bytes()
        words = load_yaml(content, "overrides.yaml")
    except (UserError, OSError, ValueError, RecursionError, yaml.YAMLError):
        return []
    return [str(word) for word in words] if isinstance(words, list) else []


@dataclass(frozen=True)
class Launch:
    """How the launcher was called.

    directory: its working directory. overrides: those of the command line, of Hydra's own only the
    search path. config_dirs: the folders that `--config-dir` added.
    """

    directory: Path
    overrides: list[str]
    config_dirs: list[Path]


def launched_from(run: RunPaths) -> Launch:
    """How `run` was launched.

    Raises UserError where Hydra left no settings that can be read, or only the beginning of them.
    """
    if not run.path.is_dir():
        raise UserError(f"there is no run folder {run}")
    # Hydra writes this file before overrides.yaml, which a run that was killed may lack.
    file = run.path / ".hydra" / "hydra.yaml"
    try:
        settings = load_yaml(file.read_bytes(), str(file))["hydra"]
        runtime = settings["runtime"]
        # The last key that Hydra writes: without it the file was cut.
        _ = settings["verbose"]
        return Launch(
            Path(runtime["cwd"]),
            [
                *(str(word) for word in settings["overrides"]["task"]),
                *(word for word in settings["overrides"].get("hydra", ()) if _searches(word)),
            ],
            [
                Path(source["path"])
                for source in runtime["config_sources"]
                if source["provider"] == "command-line"
            ],
        )
    except FileNotFoundError as error:
        raise UserError(
            f"{run} does not say how it was launched: there is no {file}; {_AGAIN}"
        ) from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {file}: {first_line(error)}; {_AGAIN}") from error
    except (LookupError, TypeError) as error:
        raise UserError(f"{file} lacks Hydra's settings: {error}; {_AGAIN}") from error


def _searches(override: str) -> bool:
    """Whether an override names the folders in which Hydra looks for configs."""
    return override.startswith("hydra.searchpath=")
