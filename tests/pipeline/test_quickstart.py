"""The quickstart's reviews and its small BERT: the same each time, fair, and made once."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sparsekit.data.synthetic import ADJECTIVES, RULES, reviews
from sparsekit.models import tiny as maker
from sparsekit.models.tiny import checkpoint

LAUNCH = ROOT / "launch.py"


def test_the_same_seed_gives_the_same_reviews() -> None:
    rows = {"train": 50, "test": 20}
    first, second, other = reviews(3, rows), reviews(3, rows), reviews(4, rows)
    assert first["train"][:] == second["train"][:]
    assert first["test"][:] == second["test"][:]
    assert first["train"]["text"][:] != other["train"]["text"][:]


def test_splits_are_large_balanced_and_share_no_text() -> None:
    made = reviews()
    texts = [text for split in made.values() for text in split["text"]]
    assert len(texts) == len(set(texts)) >= 6000
    assert set(made) == {"train", "validation", "test"}
    for split in made.values():
        assert sum(split["label"]) * 2 == len(split)
    assert made["train"].features["label"].names == ["negative", "positive"]


def test_no_bag_of_words_can_tell() -> None:
    made = reviews()
    words = CountVectorizer(token_pattern=r"\S+")
    model = LogisticRegression(max_iter=1000)
    model.fit(words.fit_transform(made["train"]["text"]), made["train"]["label"])
    accuracy = model.score(words.transform(made["test"]["text"]), made["test"]["label"])
    assert 0.5 < accuracy < 0.75


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_rule_says_its_label(rule: object) -> None:
    """An independent reading: count what turns the last adjective around."""
    generator = random.Random(5)
    for positive in (True, False):
        for _ in range(50):
            assert read(rule(generator, positive)) is positive


def read(text: str) -> bool:
    """What a review says, by other means than the grammar: strip the frame, then read a clause."""
    flips = False
    for frame in ("sure , ", "oh sure , ", "yeah , right , "):
        if text.startswith(frame):
            text, flips = text.removeprefix(frame), True
    for frame in (" , and i am the queen", " , as if", " , they say : yeah , right"):
        if text.endswith(frame):
            text, flips = text.removesuffix(frame), True
    if " claim that " in text:
        text, _, verdict = text.split(" claim that ")[1].rpartition(" , ")
        flips ^= verdict in ("but they are wrong", "and i disagree")
    for frame in ("nobody can say that ", "i would not say that ", "it is not true that "):
        if text.startswith(frame):
            text, flips = text.removeprefix(frame), not flips
    if text.startswith(("although ", "even though ")):
        text = text.split(" , ", 1)[1]
    text = text.removeprefix("yes , ").split(" , although ")[0].split(" , even though ")[0]
    text = text.split(" , but ")[-1].split(" , yet ")[-1].split(" , and ")[-1]
    words = set(text.split())
    (said,) = {polarity for polarity, words_of in ADJECTIVES.items() if words & set(words_of)}
    negated = bool(words & {"not", "never", "hardly"}) or "anything but" in text
    return said ^ negated ^ flips


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    monkeypatch.setenv("SPARSEKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(maker.grammar, "ROWS", {"train": 128, "validation": 8, "test": 8})
    return {"layers": 1, "hidden": 16, "heads": 2, "epochs": 1}


def test_the_checkpoint_is_made_once_and_loads_anywhere(
    small: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint(**small)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.num_hidden_layers == 1
    assert tokenizer.pad_token_id == 0
    assert tokenizer.unk_token not in tokenizer.tokenize("Although the plot is never dull .")
    monkeypatch.setattr(maker, "pretrain", None)
    assert checkpoint(**small) == folder


def test_another_seed_is_another_checkpoint(small: dict[str, int]) -> None:
    assert checkpoint(**small, seed=1) != checkpoint(**small, seed=2)


def test_a_checkpoint_that_breaks_off_is_not_trusted(
    small: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(maker, "pretrain", break_off)
        with pytest.raises(KeyboardInterrupt):
            checkpoint(**small)
    assert not [path for path in (tmp_path / "quickstart").iterdir() if path.is_dir()]
    assert (Path(checkpoint(**small)) / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_student_keeps_most_of_a_good_teacher(tmp_path: Path) -> None:
    """All of it made anew: with a learning rate too high it depends on luck who learns what."""
    folder = tmp_path / "run"
    command = [sys.executable, str(LAUNCH), "experiments=quickstart", f"hydra.run.dir={folder}"]
    environment = os.environ | {"SPARSEKIT_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    options = ["tracking=none", "runtime=none"]
    done = subprocess.run(
        command + options, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads((folder / "summary.json").read_text())
    teacher = summary["teacher"]["validation"]["accuracy"]
    student = summary["metrics"]["validation"]["accuracy"]
    # Measured with two seeds: 0.998, and 0.963 and 0.972.
    assert teacher > 0.97
    assert student > 0.92
