"""DeepSparse's own pipelines on a deployment folder, in the peer environment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from sparsekit.sparseml.peer import peer_python

_START = """
import json, sys
from deepsparse import Pipeline
given = json.loads(sys.stdin.read())
"""


def pipeline_answers(script: str, deployment: Path, folder: Path, given: object) -> Any:
    """What `script` prints as JSON of a copy of `deployment` in `folder`, beside its log.

    The script has `Pipeline`, the input `given`, and the copy as `deployment/`.
    """
    # DeepSparse rewrites the file that it is given.
    shutil.copytree(deployment, folder / "deployment", dirs_exist_ok=True)
    done = subprocess.run(
        [str(peer_python()), "-c", _START + script],
        input=json.dumps(given),
        cwd=folder,
        env=os.environ | {"NM_DISABLE_ANALYTICS": "True", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])
