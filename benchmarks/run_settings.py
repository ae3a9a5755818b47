"""Whether a run folder of a benchmark has the settings that are asked for now."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sparsekit.runs.folder import RunFolder
from sparsekit.runs.launch_record import overrides_of

# What changes how a run goes on, and not what it computes.
_OF_THE_LAUNCH = ("hydra.", "training.resume_from_checkpoint=")


def check_settings(folder: Path, overrides: Iterable[str]) -> None:
    """Exit with a message where the run in `folder` was launched with other overrides.

    Its scores would be taken for those of the settings that are asked for.
    """
    recorded = _settings(overrides_of(RunFolder(folder)))
    asked = _settings(overrides)
    if recorded and recorded != asked:
        there, new = (" ".join(sorted(words)) for words in (recorded - asked, asked - recorded))
        raise SystemExit(
            f"{folder} has a run with other settings ({there or 'none'} instead of "
            f"{new or 'none'}): give another --output"
        )


def _settings(overrides: Iterable[str]) -> set[str]:
    return {word for word in overrides if not word.startswith(_OF_THE_LAUNCH)}
