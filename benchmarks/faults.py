"""What sparsekit makes of kills, faults of the machine, and damaged or hostile files.

    python benchmarks/faults.py                      # all, some twenty minutes; needs no network
    python benchmarks/faults.py --mutants 200 --kills 2 --json

Prints what was not answered, and as its last line the counts:
    resume: runs that were killed (SIGKILL) at some moment and resumed, and those that ended with
        the same bits, weights and ONNX file, as an unbroken run.
    faults: a full disk, a damaged cache, a stop, ... and those that cost one sentence at most, and
        never a finished result.
    mutants: files with one thing changed, by `recipe show`, `recipe convert`, `inspect`, `verify`,
        `compare`, `predict` on every runtime, `export`, and the reading of checkpoints. answered: a
        result or one error, with at most 5 s of CPU time more than the unchanged file takes;
        crashed: a traceback, a signal or no answer; silent: a changed file that `verify` or the
        reading of a checkpoint promises to find, and did not.

Not tried: services that fail (tests/runs, tests/models), two machines.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("resume", "faults", "mutants")


def main() -> None:
    parser = argparse.ArgumentParser(description="Kills, faults and mutants, and what survives.")
    parser.add_argument("--mutants", type=int, default=2000, help="about so many changed files")
    parser.add_argument("--kills", type=int, default=8, help="runs that are killed and resumed")
    parser.add_argument("--seed", type=int, default=0, help="of the mutants")
    parser.add_argument("--json", action="store_true", help="print the counts alone")
    parser.add_argument("--only", choices=PARTS, help="try one part")
    chosen = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]
    # Before any library reads them: a single thread, so that processes can be forked.
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    from fault_parts.base import base_run, write_inputs
    from fault_parts.injected import try_faults
    from fault_parts.kills import try_kills
    from fault_parts.verbs import try_mutants

    with tempfile.TemporaryDirectory(prefix="sparsekit-faults-") as name:
        scratch = Path(name)
        os.environ["SPARSEKIT_CACHE"] = str(scratch / "cache")
        if chosen.json:
            # The rest is printed to stderr.
            output, sys.stdout = sys.stdout, sys.stderr
        inputs = write_inputs(scratch)
        run = base_run(scratch, inputs)
        parts = {
            "resume": lambda: try_kills(run, scratch, inputs, chosen.kills),
            "faults": lambda: try_faults(run, scratch, inputs),
            "mutants": lambda: try_mutants(run, scratch, chosen.mutants, chosen.seed),
        }
        wanted = [chosen.only] if chosen.only else PARTS
        counts = {name: parts[name]() for name in wanted}
        if chosen.json:
            sys.stdout = output
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
