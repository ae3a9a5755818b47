"""Where conf/ and experiments/ are: beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf


def project_root() -> Path:
    """The folder that holds conf/ and experiments/."""
    package = Path(__file__).resolve().parents[1]
    return package if (package / "conf").is_dir() else package.parent


def register_root() -> None:
    """Give OmegaConf the resolver `project_root`; calling it again changes nothing."""
    OmegaConf.register_new_resolver("project_root", lambda: str(project_root()), replace=True)
