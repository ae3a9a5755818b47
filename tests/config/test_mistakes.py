"""Mistakes on the command line: one line that names the word and what was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.errors import HydraException
from launching import composed
from omegaconf.errors import OmegaConfBaseException
from project import CONF

from sparsekit.config.mistakes import explained


def mistake(*words: str) -> str:
    with pytest.raises((HydraException, OmegaConfBaseException)) as raised:
        composed(*words)
    return explained(raised.value, words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tacher=none"], "tacher=none: there is no key tacher; did you mean teacher?"),
        (
            ["dataset=rotten_tomatos"],
            "dataset=rotten_tomatos: the group dataset has no rotten_tomatos; did you mean "
            "rotten_tomatoes? choose from conll, conll2003, ",
        ),
        (
            ["dataset=imdb"],
            "dataset=imdb: the group dataset has no imdb; choose from conll, conll2003, ",
        ),
        (
            ["experiments=quickstrt"],
            "experiments=quickstrt: the group experiments has no quickstrt",
        ),
        (["experiment=quickstart"], "experiment=quickstart: there is no key experiment; did you "),
        (
            ["recipe.qat_epoch=1"],
            "recipe.qat_epoch=1: there is no key recipe.qat_epoch; did you mean recipe.qat_epochs?",
        ),
        (
            ["recipe.modifiers.distilation.hardness=1"],
            "recipe.modifiers.distilation.hardness=1: there is no key recipe.modifiers."
            "distilation; did you mean recipe.modifiers.distillation?",
        ),
        (
            ["recipe.num_epochs=3", "recipe.num_epoch=2"],
            "recipe.num_epoch=2: there is no key recipe.num_epoch; did you mean recipe.num_epochs?",
        ),
        (
            ["dataset=csv", "dataset.data_files.train=a", "dataset.data_file.train=a"],
            "dataset.data_file.train=a: there is no key dataset.data_file; did you mean "
            "dataset.data_files?",
        ),
        (["num_epochs=3"], "num_epochs=3: there is no key num_epochs; did you mean recipe.num_ep"),
        (
            ["training.adam_beta2=0.9"],
            "training.adam_beta2=0.9: the config does not set training.adam_beta2 yet; write "
            "+training.adam_beta2=0.9",
        ),
        (
            ["training.adam_betta2=0.9"],
            "training.adam_betta2=0.9: there is no key training.adam_bet",
        ),
        (["training.zzz=1"], "training.zzz=1: there is no key training.zzz"),
        (["tracking.zzz=1"], "tracking.zzz=1: there is no key tracking.zzz; tracking has "),
        (["+teacher=none"], "+teacher: teacher is chosen already; leave out the +"),
        (["+seed=1"], "+seed: seed is set already; leave out the +"),
        (
            ["~recipe.modifiers.quant"],
            "~recipe.modifiers.quant: there is no key recipe.modifiers.q",
        ),
        (["seed=1,2"], "seed=1,2: add -m to sweep over these values, or write seed=[1,2]"),
        (["seed"], "seed: write KEY=VALUE"),
        (
            ["recipe=mine.yaml"],
            "recipe=mine.yaml: a choice is a name, not a file; for a recipe of SparseML's write "
            "recipe=sparseml recipe.path=mine.yaml; for one of sparsekit's save it as "
            "FOLDER/recipe/mine.yaml and write --config-dir FOLDER recipe=mine",
        ),
        (
            ["dataset=/a/dataset/mine.yaml"],
            "dataset=/a/dataset/mine.yaml: a choice is a name, not a file; write --config-dir /a "
            "dataset=mine",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_mistake_is_explained(words: list[str], message: str) -> None:
    given = words if any(w.startswith("dataset=") for w in words) else ["dataset=sst2", *words]
    text = mistake(*given)
    assert text.startswith(message), text
    assert "\n" not in text


def test_a_data_set_that_is_not_chosen() -> None:
    assert mistake().startswith(
        "dataset is not set: add dataset=NAME; choose from conll, conll2003, "
    )


def test_what_the_advice_for_a_file_says_works(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    file = tmp_path / "dataset" / "mine.yaml"
    file.write_text((CONF / "dataset" / "csv.yaml").read_text())
    advice = mistake(f"dataset={file}")
    assert advice.endswith(f"write --config-dir {tmp_path} dataset=mine")
    config = composed(f"hydra.searchpath=[file://{tmp_path}]", "dataset=mine")
    assert config.dataset.format == "csv"
