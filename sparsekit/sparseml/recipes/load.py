"""`recipe=sparseml recipe.path=FILE`: a SparseML file as the launcher's recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from sparsekit.config.plain import plain
from sparsekit.config.resolvers import register_calc
from sparsekit.config.root import register_root
from sparsekit.errors import ConfigError
from sparsekit.sparseml.recipes.document import Document, read
from sparsekit.sparseml.recipes.expressions import expression, names
from sparsekit.sparseml.recipes.mapping import EPOCH_RANGE, MODIFIERS
from sparsekit.sparseml.recipes.native import (
    Values,
    evaluated,
    native,
    number,
    resolved,
    training_length,
)
from sparsekit.sparseml.recipes.text import MARKDOWN, ZOO, content_of
from sparsekit.system import expanded


def load(path: str, variables: Mapping[str, Any]) -> Values:
    """The resolved native values of a SparseML recipe, with variables overridden.

    Raises ConfigError with the problems of the recipe, such as windows beyond the training.
    """
    return values_of_document(read(expanded(path)), path, variables)


def values_of_document(document: Document, path: str, variables: Mapping[str, Any]) -> Values:
    """The recipe in `document` with variables overridden; `path` is for error messages."""
    register_calc()
    native(document, path)
    written = evaluated(training_length(document, path), resolved(document, path))
    document.override(variables)
    node = native(document, path)
    epochs = evaluated(training_length(document, path), resolved(document, path))
    problems = _windows(document, path, epochs) + _unread(document, path, variables)
    if not problems and variables.get("num_epochs", epochs) != epochs == written:
        problems.append(
            f"{path}: recipe.variables.num_epochs={variables['num_epochs']} does not change the "
            f"training, which ends at epoch {epochs}; write end_epoch: eval(num_epochs) there"
        )
    if problems:
        raise ConfigError(problems)
    return dict(plain(OmegaConf.create({"recipe": node}))["recipe"])


def is_sparseml(path: Path) -> bool:
    """Whether a file has a SparseML recipe, not a native one; raises UserError if unreadable."""
    if str(path).startswith(ZOO):
        return True
    text = content_of(path)
    return path.suffix.lower() in MARKDOWN or is_sparseml_text(text)


def is_sparseml_text(text: str) -> bool:
    """Whether YAML text is a SparseML recipe, not a native one."""
    if re.search(r"^defaults:|_target_", text, re.MULTILINE):
        return False
    # SparseML names modifiers by their classes, and lists them where a native recipe maps names.
    listed = r"modifiers:[ \t]*(#.*)?(\n[ \t]*(#.*)?)*(- |\[)"
    return re.search(rf"^[^#\n]*Modifier\b|{listed}", text, re.MULTILINE) is not None


def _windows(document: Document, path: str, last: float) -> list[str]:
    """Problems of windows beyond the training, each with the variables that would fix it."""
    values = resolved(document, path)
    length = training_length(document, path)
    problems = []
    for entry in document.entries:
        if entry.kind == EPOCH_RANGE:
            continue
        for name, verb, below, above in (
            ("start_epoch", "starts", "<", ">"),
            ("end_epoch", "ends", "<=", ">="),
        ):
            endless = entry.kind in MODIFIERS and MODIFIERS[entry.kind].endless
            written = None if endless and name == "end_epoch" else entry.fields.get(name)
            epoch = number(evaluated(written, values))
            if epoch > last or (name == "start_epoch" and epoch == last):
                problems.append(
                    f"{path}, {entry.place}: {entry.kind} {verb} at epoch {epoch:g} but training "
                    f"ends at {last:g}; {_fix(name, written, f'{below} {last:g}')}, or train for "
                    f"longer: {_fix('end_epoch', length, f'{above} {epoch:g}')}"
                )
    return problems


def _unread(document: Document, path: str, variables: Mapping[str, Any]) -> list[str]:
    """Problems of overrides without effect; aliases of an anchor have the value in the file."""
    read = document.read_names()
    return [
        f"{path}: recipe.variables.{name}: no expression uses {name}, so it has no effect; where "
        f"the file repeats its value or has an alias of it, write eval({name})"
        for name in variables
        if not read.intersection(document.scopes.get(name, [name]))
    ]


def _fix(name: str, written: Any, limit: str) -> str:
    text = expression(written)
    if text is None:
        return f"set {name} {limit} in the file"
    listed = ", ".join(f"recipe.variables.{variable}" for variable in names(text))
    return f"set {listed} {limit}" if names(text) == [text] else f"set {listed} so: {text} {limit}"


def _resolver(path: Any, variables: DictConfig, key: str) -> Any:
    overrides = OmegaConf.to_container(variables, resolve=True)
    assert isinstance(overrides, dict)
    value = load(str(path), {str(name): value for name, value in overrides.items()})[key]
    # A plain dict would leave the config unresolvable in place (`--cfg job --resolve`).
    return OmegaConf.create(value) if isinstance(value, dict) else value


def register_resolvers() -> None:
    """Register what `conf/` needs with Hydra and OmegaConf; may be called repeatedly.

    That is the resolvers `calc`, `project_root` and `sparseml`, and a mapping of variables that
    accepts any name, so that `recipe.variables.NAME=...` needs no plus.
    """
    register_calc()
    register_root()
    OmegaConf.register_new_resolver("sparseml", _resolver, replace=True)
    ConfigStore.instance().store(name="any_variables", node=DictConfig({}, flags={"struct": False}))
