"""How long `sparsekit compare` takes for many run folders.

    python benchmarks/compare_runs.py                 # 10,000 runs of 2,000 configs
    python benchmarks/compare_runs.py --runs 1000

Prints one line: {"runs", "seconds", "cpu_seconds", "page_mb"}. Each folder holds the config of the
quickstart with other values of six keys, the overrides that set them, and a summary.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
# Their product is the number of configs; each has `SEEDS` runs.
VARIED = {
    "student.sparsity": (0.5, 0.6, 0.7, 0.8, 0.9),
    "recipe.distill_hardness": (0.0, 0.25, 0.5, 0.75, 1.0),
    "training.learning_rate": (1e-5, 2e-5, 4e-5, 8e-5),
    "training.per_device_train_batch_size": (16, 32),
    "training.weight_decay": (0.0, 0.01, 0.05, 0.1, 0.2),
    "recipe.qat_epochs": (1, 2),
}
SEEDS = 5
MOST = SEEDS * math.prod(map(len, VARIED.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description="The time of `sparsekit compare`.")
    parser.add_argument("--runs", type=int, default=MOST, help=f"at most {MOST}")
    chosen = parser.parse_args()
    if not 1 <= chosen.runs <= MOST:
        parser.error(f"--runs {chosen.runs}: set 1 to {MOST}")
    sys.path.insert(0, str(ROOT))
    config = quickstart_config()
    with tempfile.TemporaryDirectory(prefix="sparsekit-compare-") as name:
        sweep = Path(name)
        combinations = itertools.product(*VARIED.values(), range(SEEDS))
        for number, (*values, seed) in enumerate(itertools.islice(combinations, chosen.runs)):
            write_run(sweep / str(number), config, dict(zip(VARIED, values, strict=True)), seed)
        begin, before = time.monotonic(), os.times()
        subprocess.run(
            [sys.executable, "-m", "sparsekit", "compare", name],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        seconds, after = time.monotonic() - begin, os.times()
        used = after.children_user + after.children_system
        used -= before.children_user + before.children_system
        size = (sweep / "compare.html").stat().st_size
    counts = {"runs": chosen.runs, "seconds": round(seconds, 1), "cpu_seconds": round(used, 1)}
    print(json.dumps({**counts, "page_mb": round(size / 1e6, 2)}))


def quickstart_config() -> dict[str, Any]:
    words = ("experiments=quickstart", "tracking=none", "--cfg", "job", "--resolve")
    printed = subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    config: dict[str, Any] = yaml.safe_load(printed.stdout)
    return config


def write_run(folder: Path, base: dict[str, Any], values: dict[str, Any], seed: int) -> None:
    """A completed run of the config `base` with other values, and measures drawn by chance."""
    from sparsekit.config.identity import identity_hash

    config = copy.deepcopy(base)
    for key, value in values.items():
        group, name = key.split(".")
        config[group][name] = value
    config["seed"] = config["training"]["seed"] = seed
    config["output_dir"] = str(folder)
    config["training"]["output_dir"] = str(folder / "checkpoints")
    chance = random.Random(str(folder))
    summary = {
        "status": "completed",
        "error": None,
        "config": {"student": "quickstart", "hash": identity_hash(config)},
        "metrics": {"validation": {"accuracy": chance.gauss(0.8, 0.02), "log_loss": 0.5}},
        "sparsity": {"overall": values["student.sparsity"], "layers": {}},
        "train": {"seconds": chance.uniform(9, 10)},
        "export": {"bytes": 4_000_000, "bytes_compressed": 1_000_000},
        "runtime": {
            "onnxruntime": {
                "latency_ms_p50": chance.uniform(1, 2),
                "items_per_second": 500.0,
            }
        },
    }
    (folder / ".hydra").mkdir(parents=True)
    overrides = [f"{key}={value}" for key, value in {**values, "seed": seed}.items()]
    for file, content in (("config.yaml", config), (".hydra/overrides.yaml", overrides)):
        with (folder / file).open("w", encoding="utf-8") as output:
            yaml.dump(content, output, _Dumper, sort_keys=False)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
