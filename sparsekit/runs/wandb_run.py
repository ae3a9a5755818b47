"""The W&B run that mirrors a run folder: its mode, its id, its beginning and its end."""

from __future__ import annotations

import json
import logging
import netrc
import os
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sparsekit.config.overrides import overridden_values
from sparsekit.errors import UserError, first_line, parse_json
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.wandb_service import forget_ended_service
from sparsekit.system import expanded

if TYPE_CHECKING:
    import wandb

    from sparsekit.runs.tracking import TrackingConfig

LOG = logging.getLogger(__name__)
# W&B's cloud moved; `wandb login` stores a key under either name, and takes it from both.
CLOUD_HOSTS = {"api.wandb.ai", "api.forge.coreweave.com"}
NAME_LENGTH = 128  # what W&B accepts for names and groups


def wandb_mode(mode: str) -> str:
    """The mode with `auto` resolved: online, offline or disabled; never prompts for a key."""
    forget_ended_service()
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
    elif mode == "online" and not _has_key():
        raise UserError(
            "tracking.mode=online needs a W&B key: run `wandb login`, set WANDB_API_KEY, "
            "or use tracking.mode=offline"
        )
    return mode


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    import wandb

    host = urlsplit(wandb.setup().settings.base_url).netloc
    hosts = CLOUD_HOSTS if host in CLOUD_HOSTS else {host}
    try:
        known = netrc.netrc(expanded(os.environ.get("NETRC", "~/.netrc")))
    except (OSError, netrc.NetrcParseError):
        return False
    return any(known.authenticators(host) for host in hosts)


def start(
    config: TrackingConfig,
    folder: RunFolder,
    resolved: dict[str, Any],
    overrides: Sequence[str],
    group: str | None,
    resumed: bool,
) -> wandb.Run | None:
    """The W&B run that mirrors the run in `folder`; None where W&B is disabled.

    Its id is kept in `wandb/run.json`, where a resumed run finds it. With `tracking.mode=auto`
    the run goes on, with a warning, offline or without W&B where that does not start. Raises
    UserError where it does not start in a mode that was asked for by name.
    """
    mode = wandb_mode(config.mode)
    if mode == "disabled":
        return None
    import wandb

    name = config.name or " ".join(overrides) or folder.name
    run_id = _run_id(folder, resumed, is_job=group is not None)
    group = config.group or group

    def init(mode: str) -> wandb.Run:
        run = wandb.init(
            project=config.project,
            entity=config.entity,
            mode=mode,  # type: ignore[arg-type]
            name=_fit(name),
            group=_fit(group) if group else None,
            id=run_id,
            resume="allow" if resumed else None,
            tags=config.tags,
            dir=folder.path,
            config={"sparsekit": resolved, **overridden_values(resolved, overrides)},
            settings=wandb.Settings(silent=True, console="off", init_timeout=30),
        )
        run.define_metric("*", step_metric="step")
        folder.wandb_id.write_text(json.dumps({"id": run.id}) + "\n", encoding="utf-8")
        return run

    return _started(init, config.mode, mode)


def _started(init: Callable[[str], wandb.Run], asked: str, mode: str) -> wandb.Run | None:
    """The run that `init` begins in `mode`, which was `asked` for or stands for auto.

    Where it does not start and auto was asked for: offline, and where that fails too, None.
    """
    # Any exception: not all of W&B's own are a wandb.Error, such as that for an unreachable
    # service process.
    try:
        return init(mode)
    except Exception as error:
        if asked != "auto":
            instead = "offline" if asked == "online" else "disabled"
            raise UserError(
                f"W&B did not start: {first_line(error)}; try tracking.mode={instead}"
            ) from error
        failure = first_line(error)
    if mode == "online":
        LOG.warning("W&B did not start, the run is recorded offline instead: %s", failure)
        try:
            return init("offline")
        except Exception as error:
            failure = first_line(error)
    LOG.warning("W&B did not start, the run goes on without it: %s", failure)
    return None


def _run_id(folder: RunFolder, resumed: bool, is_job: bool) -> str | None:
    """The id of the W&B run; None leaves it to W&B, which reads WANDB_RUN_ID or draws one."""
    if resumed:
        try:
            return str(parse_json(folder.wandb_id.read_bytes())["id"])
        except (OSError, ValueError, LookupError, TypeError):
            LOG.warning("%s names no W&B run to go on with; another one begins", folder.wandb_id)
    # Under the id of the environment all jobs of a sweep would merge into one run.
    return secrets.token_hex(4) if is_job else None


def _fit(name: str) -> str:
    """`name` cut in the middle to W&B's limit: what a sweep varies is often the last override."""
    half = NAME_LENGTH // 2
    return name if len(name) <= NAME_LENGTH else f"{name[: half - 1]}…{name[-half:]}"


def end(run: wandb.Run | None, exit_code: int) -> None:
    """End the W&B run; what W&B raises is a warning."""
    if run is None:
        return
    try:
        run.finish(exit_code=exit_code)
    except Exception as error:  # the run's own outcome must not be hidden by its mirror's
        LOG.warning("W&B did not finish: %s", error)
