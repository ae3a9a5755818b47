"""Run one experiment, or with `-m` a sweep: `python launch.py dataset=rotten_tomatoes`."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from sparsekit.config.command_line import arranged
from sparsekit.distributed import FIRST_PROCESS
from sparsekit.errors import UserError
from sparsekit.runs.folder import new_folder
from sparsekit.sparseml.recipes.load import register_resolvers
from sparsekit.system import bound_spinning

# conf/config.yaml finds experiments/ through it, from any working directory.
os.environ.setdefault("SPARSEKIT_ROOT", str(Path(__file__).resolve().parent))


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Run what the config says; a mistake of the user ends in one clear message and code 1."""
    signal.signal(signal.SIGTERM, stop)
    try:
        from sparsekit.pipeline.run import run  # seconds of imports, in which Ctrl-C may come too

        folder = run(cfg, HydraConfig.get())
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as stopped:
        signal_name = str(stopped) or "SIGINT"
        found = Path(cfg.training.output_dir).glob("checkpoint-*/trainer_state.json")
        newest = max(found, key=lambda file: file.stat().st_mtime, default=None)
        go_on = f"; to go on: training.resume_from_checkpoint={newest.parent}" if newest else ""
        # At once: a sweep that is stopped too ends this process at any moment.
        sys.stderr.write(f"stopped by {signal_name}{go_on}\n")
        # What a shell makes of a process that a signal ended.
        sys.exit(128 + signal.Signals[signal_name])
    if FIRST_PROCESS:
        sys.stdout.write(f"run: {folder}\n")


def run_folder(path: str) -> str:
    """What conf/config.yaml calls `new_folder`; Hydra would show an exception's whole trace."""
    if any(word in ("-c", "--cfg") or word.startswith("--cfg=") for word in sys.argv):
        return path  # Only printed: nothing is run in it.
    try:
        return new_folder(path)
    except UserError as error:
        sys.exit(f"error: {error}")


def use_scratch_folder() -> None:
    """The run folder belongs to torchrun's first process; what another writes is not kept."""
    folder = tempfile.mkdtemp(prefix="sparsekit-process-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    sys.argv += [f"hydra.run.dir={folder}", "hydra.output_subdir=null"]


def stop(number: int, frame: FrameType | None) -> None:
    """End the run as Ctrl-C does: its summary is written, W&B closed, half-made folders removed."""
    raise KeyboardInterrupt(signal.Signals(number).name)


if __name__ == "__main__":
    bound_spinning()
    register_resolvers()
    OmegaConf.register_new_resolver("new_folder", run_folder)
    try:
        sys.argv[1:] = arranged(sys.argv[1:])
        if not FIRST_PROCESS:
            use_scratch_folder()
        main()
    except (HydraException, UserError) as error:
        sys.exit(f"error: {error}")  # --help and --info; Hydra itself says what it runs into
