"""What a search takes from the dense model: its task and its columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from project import ROOT
from safetensors.torch import save_file
from transformers import BertConfig

from sparsekit.errors import UserError
from sparsekit.sweep.candidates import Structures, Zeros
from sparsekit.sweep.compression import Search
from sparsekit.sweep.dense_model import dense_model
from sparsekit.tasks.base import Task
from sparsekit.tasks.config import build_task, task_node
from sparsekit.tasks.embedding import Embedding
from sparsekit.tasks.multi_label import MultiLabel
from sparsekit.tasks.question_answering import QuestionAnswering
from sparsekit.tasks.regression import Regression
from sparsekit.tasks.text_classification import TextClassification
from sparsekit.tasks.token_classification import TokenClassification

HEADS = {
    TextClassification: "BertForSequenceClassification",
    Regression: "BertForSequenceClassification",
    MultiLabel: "BertForSequenceClassification",
    TokenClassification: "BertForTokenClassification",
    QuestionAnswering: "BertForQuestionAnswering",
    Embedding: "BertModel",
}
# As their users name the columns: not as sparsekit does.
TASKS = [
    TextClassification(text_columns=["a, b", "c"], label_column="class", metrics=["f1_macro"]),
    Regression(label_column="5", max_length=64, metrics=["mse"]),
    MultiLabel(label_columns=["joy", "anger"], threshold=0.4, metrics=["f1_micro"]),
    TokenClassification(token_column="words", tag_column="ner", metrics=["f1"]),
    QuestionAnswering(question_column="q", unanswerable=True, metrics=["f1"]),
    Embedding(text_columns=["a", "b"], score_column="score", pooling="first"),
]


def checkpoint(folder: Path, head: str, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    BertConfig(architectures=[head], **config).save_pretrained(folder)
    save_file({"weight": torch.zeros(1)}, folder / "model.safetensors")
    return folder


def run_of(folder: Path, task: Task) -> Path:
    """A run folder whose config has the task's columns in `dataset`, the rest in `task`."""
    checkpoint(folder / "model", HEADS[type(task)])
    node = task_node(task)
    own = {key: node.pop(key) for key in ("_target_", "threshold") if key in node}
    (folder / "config.yaml").write_text(yaml.safe_dump({"task": own, "dataset": node}))
    return folder


def composed(words: Sequence[str]) -> dict[str, Any]:
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        config = compose("config", [word for word in words if not word.startswith("hydra.")])
    made = {key: OmegaConf.to_container(config[key], resolve=True) for key in ("task", "dataset")}
    return {**made, "keys": config.get("distill_output_keys")}


def search_of(model: Path, overrides: Sequence[str] = ()) -> Search:
    dense = dense_model(str(model), overrides)
    return Search(
        model=str(dense.folder),
        data="train.csv",
        validation=None,
        max_drop=1.0,
        task=dense.words,
        labelled=not dense.task.learns_from_teacher,
        overrides=list(overrides),
    )


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_trials_have_the_task_of_the_run(tmp_path: Path, task: Task) -> None:
    run = run_of(tmp_path / "run", task)
    asked = search_of(run)
    assert asked.model == str(run / "model") and asked.labelled == (type(task) is not Embedding)
    config = composed(asked.words(Zeros(0.9), tmp_path / "t"))
    assert build_task(config) == task
    if isinstance(task, Embedding):
        assert config["keys"] == ["sentence_embedding"]


def test_what_the_user_names_comes_last(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", TASKS[0])
    words = search_of(run, ["dataset.label_column=mine"]).words(Zeros(0.9), tmp_path / "t")
    found = build_task(composed(words))
    assert isinstance(found, TextClassification)
    assert found.label_column == "mine" and found.text_columns == ["a, b", "c"]
    # Another task has columns of its own.
    words = search_of(run, ["task=regression"]).words(Zeros(0.9), tmp_path / "t")
    assert build_task(composed(words)) == Regression(metrics=["pearson", "spearman", "mse"])


def test_a_checkpoint_alone_tells_its_task_but_no_columns(tmp_path: Path) -> None:
    tagger = checkpoint(tmp_path / "tagger", "BertForTokenClassification")
    assert search_of(tagger).task == ["task=token_classification"]
    number = checkpoint(tmp_path / "number", "BertForSequenceClassification", num_labels=1)
    assert search_of(number).task == ["task=regression"]
    classes = checkpoint(tmp_path / "classes", "BertForSequenceClassification", num_labels=3)
    assert search_of(classes).task == ["task=text_classification"]


def test_embeddings_are_pruned_by_magnitude(tmp_path: Path) -> None:
    """Optimal Brain Surgeon needs a loss of labels, which they do not have."""
    folder = checkpoint(tmp_path / "sentences", "BertModel")
    (folder / "modules.json").write_text("[]")
    asked = search_of(folder)
    assert asked.task == ["task=embedding"]
    words = asked.words(Zeros(0.9), tmp_path / "t")
    assert [word for word in words if "obs" in word] == ["recipe.obs_gradients=0"]
    words = asked.words(Structures(0.5, 0.75), tmp_path / "t")
    assert "student.shrink.method=magnitude" in words
    # A classifier has one, and a user's own word comes last.
    labelled = checkpoint(tmp_path / "classes", "BertForSequenceClassification")
    words = search_of(labelled, ["recipe.obs_gradients=64"]).words(Zeros(0.9), tmp_path / "t")
    chosen = [word for word in words if "obs_gradients" in word]
    assert chosen == ["recipe.obs_gradients=64"]


def test_an_encoder_without_a_head_is_for_embeddings_where_it_is_said_so(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "encoder", "BertModel")
    with pytest.raises(UserError, match=r"is BertModel, not .* add task=embedding"):
        dense_model(str(folder), [])
    given = dense_model(str(folder), ["task=embedding", "dataset.text_columns=[a,b]"])
    assert isinstance(given.task, Embedding) and given.words == []


def test_a_model_of_another_task_is_refused(tmp_path: Path) -> None:
    words = checkpoint(tmp_path / "words", "BertForMaskedLM")
    with pytest.raises(UserError, match="is BertForMaskedLM, not fine-tuned for a task"):
        dense_model(str(words), [])
    with pytest.raises(UserError, match="not fine-tuned for token classification"):
        dense_model(str(words), ["task=token_classification"])
