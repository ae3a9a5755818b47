"""launch.py with a job of no work: what `poison.json` says of a seed happens to that seed's job."""

import json
import os
import signal
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("SPARSEKIT_ROOT", str(ROOT))


@hydra.main(config_path="../conf", config_name="config", version_base="1.3")
def main(cfg):
    from sparsekit.config import identity_hash, plain
    from sparsekit.tracking import write_summary

    values = plain(cfg)
    poison = Path("poison.json")
    poisoned = json.loads(poison.read_text()) if poison.exists() else {}
    match poisoned.get(str(cfg.seed)):
        case "raise":
            raise ValueError("a bad batch")
        case "exit":
            sys.exit("error: a mistake")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
    name = HydraConfig.get().job.num
    with Path("ran.txt").open("a") as file:
        file.write(f"{cfg.seed} {cfg.recipe.num_epochs} {name} {os.getpid()}\n")
    write_summary(
        Path(cfg.output_dir),
        {"status": "completed", "error": None, "config": {"hash": identity_hash(values)}},
    )


if __name__ == "__main__":
    main()
