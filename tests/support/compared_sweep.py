"""A sweep's runs as `sparsekit compare` finds them."""

from __future__ import annotations

from pathlib import Path

from made_runs import write_made_sweep


def compared_sweep(parent: Path) -> Path:
    """2 x 2 x 2 configs of 3 seeds; one summary cut in half, one failed, one killed."""
    folder = parent / "2026-11-23" / "10-00-00"
    assert write_made_sweep(folder) == 24
    for number, text in (
        (24, '{"status": "comp'),
        (25, '{"status": "failed", "error": "<b>out of memory</b>\\nhere"}'),
    ):
        (folder / str(number)).mkdir()
        (folder / str(number) / "summary.json").write_text(text)
    (folder / "26" / ".hydra").mkdir(parents=True)
    return folder
