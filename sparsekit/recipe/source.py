"""Recipes as people write them: a file, YAML text or a mapping, native or SparseML's.

Every function returns resolved plain values, which `Recipe.build` takes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sparsekit.config.plain import plain
from sparsekit.config.root import project_root
from sparsekit.config.yaml_limits import check_yaml
from sparsekit.errors import UserError, first_line
from sparsekit.sparseml.recipes.document import parse
from sparsekit.sparseml.recipes.load import (
    is_sparseml,
    is_sparseml_text,
    load,
    register_resolvers,
    values_of_document,
)
from sparsekit.sparseml.recipes.text import ZOO
from sparsekit.sparseml.zoo import shipped_recipe
from sparsekit.system import expanded

log = logging.getLogger(__name__)

OWN_RECIPES = project_root() / "conf" / "recipe"
TEXT = "the recipe's text"


def values_of_file(path: str | Path, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe in a file with `variables` set; `path` may also name a recipe of `conf/recipe/`.

    A SparseZoo stub whose training one of our own recipes repeats gives that recipe.
    """
    register_resolvers()
    file = recipe_file(path)
    if is_sparseml(file):
        return load(str(file), variables)
    return _resolved(native_config(file), variables)


def values_of_text(text: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe in YAML text with `variables` set."""
    register_resolvers()
    if is_sparseml_text(text):
        return values_of_document(parse(text, TEXT), TEXT, variables)
    try:
        check_yaml(text, TEXT)
        node = OmegaConf.create(text)
    except (yaml.YAMLError, OmegaConfBaseException, RecursionError) as error:
        raise UserError(f"cannot read {TEXT}: {first_line(error)}") from error
    if isinstance(node, DictConfig) and "defaults" in node:
        raise UserError(f"{TEXT} builds on other recipes (defaults), which only a file can")
    return _resolved(_under_recipe(node, TEXT), variables)


def values_of_mapping(values: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
    """The native recipe in a mapping, interpolations allowed, with `variables` set."""
    register_resolvers()
    name = "the recipe's mapping"
    try:
        node = OmegaConf.create(dict(values))
    except OmegaConfBaseException as error:
        raise UserError(f"cannot read {name}: {first_line(error)}") from error
    return _resolved(_under_recipe(node, name), variables)


def native_config(file: Path) -> DictConfig:
    """A native recipe, unresolved, under the key `recipe`.

    A recipe that builds on others of its folder, or on sparsekit's (`defaults`), is composed by
    Hydra. Raises UserError for a file that cannot be read, or is not a recipe.
    """
    try:
        text = file.read_text(encoding="utf-8")
        check_yaml(text, str(file))
        node = OmegaConf.load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"cannot read the recipe {file}: {first_line(error)}") from error
    if not re.search(r"^defaults:", text, re.MULTILINE):
        return _under_recipe(node, str(file))
    folder = file.absolute().parent
    register_resolvers()
    try:
        with initialize_config_dir(str(folder.parent), version_base="1.3"):
            # It may build on sparsekit's own recipes, as in a run.
            ours = f'hydra.searchpath=["file://{project_root() / "conf"}"]'
            return compose(overrides=[ours, f"+{folder.name}@recipe={file.stem}"])
    except HydraException as error:
        raise UserError(f"cannot compose the recipe {file}: {error}") from error


def recipe_file(path: str | Path) -> Path:
    """The file that `path` means: itself, or a built-in recipe by its name or a SparseZoo stub."""
    if str(path).startswith(ZOO):
        own = shipped_recipe(str(path))
        if own is not None:
            log.warning("%s: SparseZoo is closed; recipe %s trains the same way", path, own)
        return Path(str(path)) if own is None else OWN_RECIPES / f"{own}.yaml"
    file = expanded(path)
    if file.is_file() or file.suffix or len(file.parts) > 1:
        return file
    if not (OWN_RECIPES / f"{file}.yaml").is_file():
        names = ", ".join(sorted(own.stem for own in OWN_RECIPES.glob("*.yaml")))
        raise UserError(
            f"there is no recipe {str(path)!r}: give the path of a YAML file, or one of {names}"
        )
    return OWN_RECIPES / f"{file}.yaml"


def _under_recipe(node: Any, name: str) -> DictConfig:
    # Interpolations of recipes name their variables from there: ${recipe.num_epochs}
    if not isinstance(node, DictConfig) or "num_epochs" not in node:
        raise UserError(f"{name} is not a sparsekit recipe: it has no num_epochs at its top level")
    node.pop("metadata", None)
    config = OmegaConf.create({"recipe": node})
    assert isinstance(config, DictConfig)
    return config


def _resolved(config: DictConfig, variables: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in variables.items():
        if name not in config.recipe:
            names = ", ".join(str(key) for key in config.recipe if key != "modifiers")
            raise UserError(f"the recipe has no variable {name!r}; it has {names}")
        config.recipe[name] = value
    return dict(plain(config)["recipe"])
