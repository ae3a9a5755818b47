"""What Hydra calls: one job of `sparsekit train` or `launch.py`, and how it ends."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sparsekit.cli.imports import uncollected
from sparsekit.cli.stopping import COMPOSING, deferred, handle_signals
from sparsekit.config.command_line import arranged
from sparsekit.config.mistakes import explained
from sparsekit.config.root import project_root
from sparsekit.distributed import FIRST_PROCESS, scratch_folder
from sparsekit.errors import UserError
from sparsekit.runs.creation import new_folder
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.launch_record import restore_record
from sparsekit.runs.replacement import check_replaceable, mark
from sparsekit.runs.summary import describe
from sparsekit.sparseml.recipes.load import register_resolvers
from sparsekit.system import command
from sparsekit.training.checkpoints import checkpoints

# The variable that lets Hydra raise errors instead of printing them.
FULL_ERROR = "HYDRA_FULL_ERROR"


def launch(words: Sequence[str]) -> None:
    """Compose conf/ with `words`, the arguments of the command line, and run what it says.

    Exits with code 1 and one message for a user's mistake, with 128 + n for signal n.
    """
    if "${" in os.getcwd():
        raise UserError(
            f"the working directory {os.getcwd()} has ${{ in its name, which Hydra takes for an "
            "interpolation: run the command in another folder; data and models may lie in this one"
        )
    if sys.flags.optimize > 1:
        raise UserError(
            "python -OO removes the docstrings that transformers needs: run without -OO"
        )
    handle_signals()
    register_resolvers()
    OmegaConf.register_new_resolver("new_folder", make_folder, replace=True)
    OmegaConf.register_new_resolver("this_command", this_command, replace=True)
    # Hydra reads the words from sys.argv, as do the processes that its launchers start.
    sys.argv[1:] = arranged(words)
    if not FIRST_PROCESS:
        # What this process writes goes to a folder of its own.
        sys.argv += [f"hydra.run.dir={scratch_folder()}", "hydra.output_subdir=null"]
    conf = str(project_root() / "conf")
    main = hydra.main(config_path=conf, config_name="config", version_base="1.3")(job)
    in_full = FULL_ERROR in os.environ
    # Otherwise Hydra would report mistakes itself, in its own words.
    os.environ[FULL_ERROR] = "1"
    COMPOSING.begin()
    try:
        main()
        COMPOSING.end()
    except (HydraException, OmegaConfBaseException) as error:
        if in_full:
            raise
        raise UserError(explained(error, words)) from error
    except KeyboardInterrupt as stopped:
        # No job began: there is no run to record it in.
        end_stopped(None, stopped)
    finally:
        COMPOSING.restore()


def this_command() -> str:
    """The resolver `this_command` of conf/config.yaml: what the user typed before the arguments."""
    script = Path(sys.argv[0]).name == "launch.py"
    return "python launch.py" if script else f"{command()} train"


def job(cfg: DictConfig) -> None:
    """Run one composed config and print its run folder."""
    # A log that cannot be written, as on a full disk, must not add tracebacks to the run's error.
    logging.raiseExceptions = False
    try:
        COMPOSING.end()
        handle_signals()
        with deferred(), uncollected():
            from sparsekit.pipeline.run import run  # takes seconds

        folder = run(cfg, HydraConfig.get())
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as stopped:
        end_stopped(cfg.output_dir, stopped)
    finally:
        restore_record()
    if FIRST_PROCESS:
        sys.stdout.write(f"run: {folder}\n")


def make_folder(path: str) -> str:
    """The resolver `new_folder` of conf/config.yaml; Hydra would print an exception's traceback."""
    if any(word in ("-c", "--cfg") or word.startswith("--cfg=") for word in sys.argv):
        return path  # The config is only printed: nothing runs in the folder.
    try:
        return new_folder(path)
    except UserError as error:
        sys.exit(f"error: {error}")


def end_stopped(folder: str | None, stopped: KeyboardInterrupt) -> NoReturn:
    """Exit as shells report a process that a signal ended; `folder` is the run's, if it has one."""
    signal_name, hint = str(stopped) or "SIGINT", ""
    if folder is not None:
        run = RunFolder(Path(folder))
        if FIRST_PROCESS:
            _record_stop(run, stopped)
        if checkpoints(run.checkpoints):
            hint = f"; to go on: {command()} resume {shlex.quote(folder)}"
    # Written at once: a sweep that is being stopped ends this process at any moment.
    sys.stderr.write(f"stopped by {signal_name}{hint}\n")
    sys.exit(128 + signal.Signals[signal_name])


def _record_stop(run: RunFolder, stopped: KeyboardInterrupt) -> None:
    """Write `summary.json` of a run that was stopped before it began, as in its imports."""
    if run.summary_file.exists():
        return
    try:
        check_replaceable(run)
    except UserError:
        return
    run.path.mkdir(parents=True, exist_ok=True)
    mark(run)
    run.write_summary({"status": "failed", "error": describe(stopped)})
