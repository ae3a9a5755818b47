"""launch.py with a job of no work: what `poison.json` says of a seed happens to that seed's job."""

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def held(pid):
    """What a process holds: open files, threads, MB of memory of its own."""
    process = Path(f"/proc/{pid}")
    status = dict(
        line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line
    )
    files = len(list((process / "fd").iterdir()))
    memory = int(status["RssAnon"].split()[0]) / 1024
    return {"files": files, "threads": int(status["Threads"]), "memory": memory}


@hydra.main(config_path="../../conf", config_name="config", version_base="1.3")
def main(cfg):

    from sparsekit.config.build import build
    from sparsekit.config.identity import identity_hash
    from sparsekit.config.plain import plain
    from sparsekit.runs.folder import RunFolder
    from sparsekit.runs.summary import describe

    values = plain(cfg)
    # What libraries do, and what a process that is killed does not clear away.
    tempfile.mkdtemp()
    poison = Path("poison.json")
    poisoned = json.loads(poison.read_text()) if poison.exists() else {}
    match poisoned.get(str(cfg.seed)):
        case "raise":
            raise ValueError("a bad batch")
        case "exit":
            sys.exit("error: a mistake")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "interrupt":
            # Found beside this file, which not every launcher's processes can do.
            from checkpoint_files import write_checkpoint

            # As a run that is killed after a checkpoint leaves its folder.
            run = RunFolder(Path(cfg.output_dir))
            run.write_config(values)
            write_checkpoint(run.checkpoints, 5)
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            Path("pid.txt").write_text(str(os.getpid()))
            os.kill(os.getppid(), signal.SIGTERM)
            time.sleep(60)
    if cfg.training.resume_from_checkpoint:
        Path("resumed.txt").write_text(f"{cfg.seed} {Path(cfg.output_dir)}")
    with Path("sweeper.txt").open("a") as file:
        file.write(f"{json.dumps(held(os.getppid()))}\n")
    name = HydraConfig.get().job.num
    with Path("ran.txt").open("a") as file:
        file.write(f"{cfg.seed} {cfg.recipe.num_epochs} {name} {os.getpid()}\n")
    # A made-up landscape: best at hardness 0.3, cheaper the sparser.
    accuracy = 1 - (cfg.recipe.distill_hardness - 0.3) ** 2
    summary = {
        "config": {"hash": identity_hash(values)},
        "metrics": {"validation": {"accuracy": accuracy}},
        "runtime": {"onnxruntime": {"latency_ms_p50": 2 - (cfg.student.sparsity or 0)}},
    }
    run = RunFolder(Path(cfg.output_dir))
    if values["sweep"]["trial"]:
        from transformers import TrainerControl, TrainerState

        report = build(values["sweep"]["trial"], "sweep.trial")
        for epoch in (1, 2):
            state = TrainerState(epoch=epoch, global_step=epoch)
            try:
                report.on_evaluate(None, state, TrainerControl(), {"eval_accuracy": accuracy})
            except Exception as error:
                run.write_summary({**summary, "status": "failed", "error": describe(error)})
                raise
    run.write_summary({**summary, "status": "completed", "error": None})


if __name__ == "__main__":
    from sparsekit.sparseml.recipes.load import register_resolvers

    register_resolvers()
    main()
