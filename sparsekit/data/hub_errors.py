"""Why a data set of the Hub cannot be loaded, in one sentence with the fix."""

from __future__ import annotations

import re

from datasets.exceptions import DatasetBuildError, DatasetsError

from sparsekit.errors import UserError
from sparsekit.hub.connection import NO_ANSWER, reason

# What `load_dataset` and its iterators raise.
LOADING = (OSError, DatasetsError, *NO_ANSWER)
# Where none, or an unknown one, of several configurations was named; then a list of their names.
_UNNAMED = re.compile(r"(?:Config name is missing|BuilderConfig .* not found).*?\[(.*?)\]", re.S)
# Names that are listed.
_SHOWN = 20


def not_loaded(path: str, name: str | None, error: BaseException) -> UserError:
    """The error for the data set `path`, whose configuration `name` raised `error`."""
    if found := _UNNAMED.match(str(error)):
        names = re.findall(r"'([^']*)'", found[1])
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        what = "needs dataset.name" if name is None else f"has no configuration {name!r}"
        return UserError(
            f"the dataset {path!r} {what}; set dataset.name to one of "
            f"{', '.join(names[:_SHOWN])}{more}"
        )
    # `datasets` wraps what a file raised in an error that does not say it.
    while isinstance(error, DatasetBuildError) and error.__cause__ is not None:
        error = error.__cause__
    return UserError(
        f"cannot load the dataset {path!r} from the Hub: {reason(error)}; check the "
        "id and the connection, or use local files: dataset=csv "
        "dataset.data_files.train=FILE dataset.data_files.validation=FILE"
    )
