"""What Hydra calls: one job of `sparsekit train` or `launch.py`, and how it ends."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from sparsekit.config.command_line import arranged
from sparsekit.config.root import project_root
from sparsekit.distributed import FIRST_PROCESS
from sparsekit.errors import UserError
from sparsekit.runs.creation import new_folder
from sparsekit.sparseml.recipes.load import register_resolvers


def launch(words: Sequence[str]) -> None:
    """Compose conf/ with `words`, the arguments of the command line, and run what it says.

    Exits with code 1 and one message for a mistake of the user's, with 128 + n for a signal n.
    """
    if "${" in os.getcwd():
        raise UserError(
            f"the working directory {os.getcwd()} has ${{ in its name, which Hydra takes for an "
            "interpolation: run the command in another folder; data and models may lie in this one"
        )
    register_resolvers()
    OmegaConf.register_new_resolver("new_folder", run_folder, replace=True)
    try:
        # Hydra reads the words from sys.argv, as do the processes that its launchers start.
        sys.argv[1:] = arranged(words)
        if not FIRST_PROCESS:
            sys.argv += scratch_folder()
        conf = str(project_root() / "conf")
        hydra.main(config_path=conf, config_name="config", version_base="1.3")(job)()
    except HydraException as error:
        raise UserError(str(error)) from error  # of --help and --info; Hydra reports the others


def job(cfg: DictConfig) -> None:
    """Run one composed config and print its run folder."""
    signal.signal(signal.SIGTERM, stop)
    try:
        from sparsekit.pipeline.run import run  # takes seconds, in which Ctrl-C may come too

        folder = run(cfg, HydraConfig.get())
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as stopped:
        signal_name = str(stopped) or "SIGINT"
        from sparsekit.training.checkpoints import checkpoints

        written = checkpoints(Path(cfg.training.output_dir))
        hint = f"; to go on: training.resume_from_checkpoint={written[-1]}" if written else ""
        # Written at once: a sweep that is being stopped ends this process at any moment.
        sys.stderr.write(f"stopped by {signal_name}{hint}\n")
        # The exit code by which shells report a process that a signal ended.
        sys.exit(128 + signal.Signals[signal_name])
    if FIRST_PROCESS:
        sys.stdout.write(f"run: {folder}\n")


def run_folder(path: str) -> str:
    """The resolver `new_folder` of conf/config.yaml; Hydra would print an exception's traceback."""
    if any(word in ("-c", "--cfg") or word.startswith("--cfg=") for word in sys.argv):
        return path  # The config is only printed: nothing runs in the folder.
    try:
        return new_folder(path)
    except UserError as error:
        sys.exit(f"error: {error}")


def scratch_folder() -> list[str]:
    """Overrides that send what this process writes to a folder that is removed at its end.

    The run folder belongs to torchrun's first process.
    """
    folder = tempfile.mkdtemp(prefix="sparsekit-process-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return [f"hydra.run.dir={folder}", "hydra.output_subdir=null"]


def stop(number: int, frame: FrameType | None) -> None:
    """End a run on SIGTERM as on Ctrl-C: its summary is written, W&B closed."""
    raise KeyboardInterrupt(signal.Signals(number).name)
