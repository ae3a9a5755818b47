"""Deployments on the Hugging Face Hub: pushed with their model card, pulled and checked."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import (
    CommitOperationAdd,
    HfApi,
    get_token,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.constants import is_offline_mode
from huggingface_hub.errors import HFValidationError, RemoteEntryNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from sparsekit.errors import UserError, first_line
from sparsekit.hub.connection import NO_ANSWER, limited_waiting, reason, request_error
from sparsekit.onnx.layouts.token_vectors import remove_token_vectors
from sparsekit.onnx.layouts.transformers_js import GRAPH
from sparsekit.onnx.sums import NAME, check_sums, read_sums, write_sums

log = logging.getLogger(__name__)

MODEL = "model.onnx"
NO_DEPLOYMENT = (
    "{repository} is not a deployment of sparsekit: it has no {missing}; to train from a "
    "checkpoint set student.checkpoint={repository}"
)


def check_repository(repository: str) -> None:
    """Raise UserError for an invalid name of a repository."""
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(
            f"export.push_to_hub {repository!r} is not a valid name: {first_line(error)}; write "
            "user/name"
        ) from error


def push_problem() -> str | None:
    """Why nothing can be pushed, with the fix; None where nothing is known to prevent it."""
    if is_offline_mode():
        return "the Hub is switched off by HF_HUB_OFFLINE=1: unset it"
    if get_token() is None:
        return "you are not logged in: run hf auth login, or set HF_TOKEN"
    return None


def push(deployment: Path, repository: str) -> str:
    """Upload the folder to the model `repository` (user/name), created if new; returns its URL.

    The graph is there a second time where transformers.js reads it: the Hub keeps equal files once.
    Raises UserError where the Hub cannot be reached or refuses.
    """
    files = sorted(file for file in deployment.rglob("*") if file.is_file())
    uploads = {file.relative_to(deployment).as_posix(): file for file in files}
    uploads[GRAPH] = deployment / MODEL
    api = HfApi()
    try:
        with limited_waiting():
            api.create_repo(repository, repo_type="model", exist_ok=True)
        commit = api.create_commit(
            repository,
            [CommitOperationAdd(name, file) for name, file in uploads.items()],
            commit_message="Deployment exported by sparsekit",
        )
    # RuntimeError: of the file whose upload failed.
    except (OSError, ValueError, RuntimeError, request_error()) as error:
        cause = (error.__cause__ if isinstance(error, RuntimeError) else None) or error
        raise UserError(
            f"cannot push to the Hub as {repository!r}: {reason(cause)}; the deployment is in "
            f"{deployment}. Log in (hf auth login, or HF_TOKEN) with a token that may write there, "
            "or set export.push_to_hub=null"
        ) from error
    return str(commit.repo_url)


def pull_deployment(repository: str, target: Path, revision: str | None = None) -> int:
    """Download a pushed deployment to the new folder `target`; returns its number of files.

    A folder in the layout of transformers.js becomes a deployment, with its graph at the top.

    Raises UserError where there is none, or a file differs from what was pushed.
    """
    if target.exists():
        raise UserError(f"{target} exists; choose another folder with --output")
    stored, names = _downloaded(repository, revision)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        copy = Path(scratch) / "deployment"
        try:
            files = _checked_copy(stored, names, copy)
        except UserError:
            # The copy in the Hub's cache may be damaged, not the one on the Hub.
            log.warning(
                "a file of %s is damaged in the cache: all are downloaded again", repository
            )
            stored, names = _downloaded(repository, revision, again=True)
            shutil.rmtree(copy)
            try:
                files = _checked_copy(stored, names, copy)
            except UserError as error:
                reason = str(error).replace(str(copy), repository)
                raise UserError(f"{reason} (downloaded twice)") from error
        copy.rename(target)
    return files


def _checked_copy(stored: Path, names: Iterable[str], copy: Path) -> int:
    """Copy a downloaded deployment and check its sums; returns its number of files."""
    copy.mkdir()
    for name in [NAME, *names]:
        if (stored / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(stored / name, copy / name)
    files = check_sums(copy)
    if not (copy / MODEL).is_file():
        (copy / GRAPH).rename(copy / MODEL)
        remove_token_vectors(copy / MODEL)
        (copy / GRAPH).parent.rmdir()
        write_sums(copy, [file for file in copy.iterdir() if file.name != NAME])
    return files


def _downloaded(
    repository: str, revision: str | None, again: bool = False
) -> tuple[Path, list[str]]:
    """The folder of the deployment in the Hub's cache, and the files that have sums.

    again: whether files that are in the cache are downloaded too.
    """
    try:
        with limited_waiting():
            # The sums first: another repository may be large, and only files with a sum can be
            # checked.
            sums = hf_hub_download(repository, NAME, revision=revision, force_download=again)
            names = list(read_sums(Path(sums).parent))
            if MODEL not in names and GRAPH not in names:
                raise UserError(NO_DEPLOYMENT.format(repository=repository, missing=MODEL))
            stored = snapshot_download(
                repository, revision=revision, allow_patterns=[NAME, *names], force_download=again
            )
    except RemoteEntryNotFoundError as error:
        raise UserError(NO_DEPLOYMENT.format(repository=repository, missing=NAME)) from error
    except (OSError, *NO_ANSWER) as error:
        raise UserError(
            f"cannot pull {repository!r} from the Hub: {reason(error)} (the id is user/name)"
        ) from error
    return Path(stored), names
