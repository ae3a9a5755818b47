"""The models that a server answers with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sparsekit.errors import UserError
from sparsekit.runtime.base import Runtime
from sparsekit.runtime.deployment import Deployment, deployment_of, name_of
from sparsekit.runtime.tasks.base import Answer, Row
from sparsekit.serving.batcher import Batcher
from sparsekit.serving.limits import Limits
from sparsekit.serving.metrics import Metrics
from sparsekit.serving.refusals import Refusal
from sparsekit.system import expanded


class ServedModel:
    """A deployment with a name, and the batches of its requests.

    Making one lets the model answer a text, so that the first request is not slow; `example` is
    that answer, which tells what values the others have.
    """

    def __init__(self, name: str, deployment: Deployment, limits: Limits, metrics: Metrics) -> None:
        self.name, self.deployment, self.limits = name, deployment, limits
        row: Row = ("text", "text" if deployment.task.pairs else None)
        [self.example] = deployment.answers([row], deployment.encode([row]))
        self.batcher = Batcher(deployment, limits, metrics.of(name))

    async def answers(self, rows: Sequence[Row]) -> list[Answer]:
        """The answer to each row. Raises Refusal for texts beyond the limits, or wrong ones."""
        limits = self.limits
        if not rows:
            raise Refusal(422, "there are no texts: send at least one")
        if len(rows) > (most := limits.largest_request):
            raise Refusal(413, f"the request has {len(rows)} texts; send at most {most} at once")
        longest = max(len(text or "") for row in rows for text in row)
        if longest > limits.max_characters:
            raise Refusal(
                413,
                f"a text has {longest} characters; send at most {limits.max_characters} "
                f"(the model reads {self.deployment.encoder.max_length} tokens)",
            )
        pairs = self.deployment.task.pairs
        if pairs is not None and any((pair is not None) != pairs for _, pair in rows):
            kind = "pairs of texts" if pairs else "single texts"
            raise Refusal(422, f"the model {self.name} reads {kind}: send {kind}")
        return await self.batcher.answers(rows)


def named_folders(runs: Sequence[str]) -> dict[str, Path]:
    """The deployment folder of each run by the model's name, which is NAME of NAME=RUN.

    Without NAME it is that of the run folder. Raises UserError for an empty name, and for two
    models of one name.
    """
    found: dict[str, Path] = {}
    for run in runs:
        name, separator, folder = run.partition("=")
        path = expanded(folder if separator and "/" not in name else run)
        if not separator or "/" in name:
            name = name_of(path)
        if not name:
            raise UserError(f"{run!r} gives its model no name; name it, as in other={path}")
        if name in found:
            raise UserError(
                f"two models are named {name!r}; give each another name, as in other={path}"
            )
        found[name] = deployment_of(path)
    return found


def load(
    folders: dict[str, Path], kind: type[Runtime], threads: int, limits: Limits, metrics: Metrics
) -> list[ServedModel]:
    """Load every model.

    Raises UserError for a folder without a deployment, and for a model that cannot be run.
    """
    return [
        ServedModel(name, Deployment(folder, kind, threads), limits, metrics)
        for name, folder in folders.items()
    ]
