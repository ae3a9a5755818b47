"""Hydra's config as plain Python values: past this module nothing sees a DictConfig."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from sparsekit.errors import ConfigError, UserError, first_line


def plain(node: DictConfig) -> dict[str, Any]:
    """Return the node as plain Python values with every interpolation resolved.

    Raises ConfigError that lists all values which are still missing (`???`), or that names the
    interpolation which cannot be resolved.
    """
    try:
        missing = sorted(OmegaConf.missing_keys(node))
        if missing:
            raise ConfigError([f"{key} is not set: add {key}=VALUE" for key in missing])
        container = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise _cause(error) from error
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _cause(error: OmegaConfBaseException) -> ConfigError:
    """The error beneath one of OmegaConf, which keeps what a resolver raised as its context."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, ConfigError):
            return inner
        if isinstance(inner, UserError):
            return ConfigError([str(inner)])
        if isinstance(inner, MissingMandatoryValue):
            key = first_line(inner).rpartition(" ")[2]
            return ConfigError([f"{key} is not set: add {key}=VALUE"])
        inner = inner.__context__
    return ConfigError([first_line(error)])
