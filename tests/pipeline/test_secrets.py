"""Keys of the environment reach no file of a run: not its config, logs, summary or W&B records."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from launching import TAUGHT_BY_ITSELF, launch, local

KEYS = {
    "WANDB_API_KEY": "planted0wandb0key" + "0" * 23,
    "HF_TOKEN": "hf_planted0hub0token",
    "PGPASSWORD": "planted0database0password",
    "AWS_SECRET_ACCESS_KEY": "planted0cloud0key",
}


@pytest.mark.slow
def test_planted_keys_are_in_no_file(
    tmp_path: Path, csv_files: dict[str, str], student_folder: str
) -> None:
    """Of a whole run with an offline W&B run, which would be uploaded as it is."""
    settings = local(csv_files, student_folder)
    words = " ".join([*settings, *TAUGHT_BY_ITSELF, "tracking=offline", "hydra.run.dir=run"])
    done = launch(words, tmp_path, os.environ | KEYS)
    assert done.returncode == 0, done.stderr[-2000:]
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 20
    assert any(path.suffix == ".wandb" for path in files)
    for path in files:
        content = path.read_bytes()
        for name, key in KEYS.items():
            assert key.encode() not in content, f"{name} is in {path}"
    for key in KEYS.values():
        assert key not in done.stdout + done.stderr
