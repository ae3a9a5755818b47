"""Embeddings end to end: data, teacher, training, export, runtimes, answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import hub_seed
import launching
import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from deepsparse_pipeline import pipeline_answers
from families import enlarge
from onnxruntime import InferenceSession
from serving import post, serving
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertModel,
    FeatureExtractionPipeline,
    TrainingArguments,
)
from typer.testing import CliRunner

from sparsekit.cli.app import app
from sparsekit.data.selection import ReadRows, RowSelection, SelectedRows
from sparsekit.errors import ConfigError, UserError
from sparsekit.metrics.embedding import neighbour_overlap, spearman
from sparsekit.models import tiny
from sparsekit.models.pruning import sparsity
from sparsekit.models.teacher import label_order
from sparsekit.oneshot.in_memory import prune
from sparsekit.onnx.export import ExportConfig, export
from sparsekit.onnx.layouts.token_vectors import remove_token_vectors
from sparsekit.onnx.layouts.write import write_layout
from sparsekit.runtime.encoder import TextEncoder
from sparsekit.runtime.pipeline import Pipeline
from sparsekit.sparseml.peer import peer_python
from sparsekit.tasks.embedding import Embedding, embedding_distance, pooled
from sparsekit.training.trainer import SparseTrainer

RECIPE = {
    "num_epochs": 1,
    "modifiers": {
        "distillation": {
            "_target_": "sparsekit.modifiers.distillation.logits.Distillation",
            "hardness": 1.0,
        }
    },
}


def pairs_file(path: Path, rows: int) -> Path:
    texts = [str(row["text"]) for row in hub_seed.reviews(2 * rows, seed=3)]
    lines = [
        {"a": texts[2 * i], "b": texts[2 * i + 1], "relatedness": 1 + (i * 7) % 9 / 2}
        for i in range(rows)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dense encoder with a pooler, as checkpoints of sentence-transformers have one."""
    vocabulary = tiny.vocabulary([str(r["text"]) for r in hub_seed.reviews(96, seed=0)])
    torch.manual_seed(0)
    model = BertModel(hub_seed.small_bert(vocabulary))
    folder = tmp_path_factory.mktemp("models") / "encoder"
    hub_seed.write_model(folder, model, vocabulary)
    return str(folder)


def run_on_pairs(folder: Path, pairs: int, *words: str) -> Path:
    """A completed run on as many scored pairs of texts, as `words` say."""
    files = {s: pairs_file(folder / f"{s}.jsonl", pairs) for s in ("train", "validation")}
    launching.run_here(
        folder / "run",
        "task=embedding",
        "dataset=json",
        *(f"dataset.data_files.{split}={file}" for split, file in files.items()),
        "dataset.text_columns=[a,b]",
        "dataset.score_column=relatedness",
        "training=smoke",
        "runtime.requests=2",
        "runtime.batches=1",
        *words,
    )
    return folder / "run"


@pytest.fixture(scope="module")
def run(encoder_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A completed run on pairs: pruned to 80 % by magnitude, taught by itself, quantized."""
    return run_on_pairs(
        tmp_path_factory.mktemp("embedding"),
        40,
        f"student.checkpoint={encoder_folder}",
        "student.sparsity=0.8",
        "teacher=checkpoint",
        f"teacher.checkpoint={encoder_folder}",
        "training.max_steps=8",
        "recipe.num_epochs=2",
        "recipe.qat_epochs=1",
        "runtime=onnxruntime",
    )


def test_a_run_is_scored_exported_and_timed(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "completed"
    assert set(summary["metrics"]["validation"]) == {"spearman", "neighbours"}
    assert summary["teacher"]["validation"]["neighbours"] == 1.0
    assert summary["export"]["verified"] is True
    assert summary["sparsity"]["overall"] > 0.79
    assert summary["export"]["int8_matmuls"] > 0
    card = (run / "deployment" / "README.md").read_text()
    assert "pipeline_tag: feature-extraction" in card


def test_vectors_are_those_of_transformers_and_mean_pooling(run: Path) -> None:
    """Without quantization the graph before it is checked on export; here the float model is."""
    texts = [str(row["text"]) for row in hub_seed.reviews(200, seed=3)]
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    model = AutoModel.from_pretrained(run / "model", add_pooling_layer=False).eval()
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    ours = pooled(hidden, batch["attention_mask"], "mean").numpy()
    for row, mask in enumerate(batch["attention_mask"].bool()):
        mean = hidden[row][mask].mean(0)
        np.testing.assert_allclose(ours[row], (mean / mean.norm()).numpy(), atol=1e-5)


@pytest.fixture(scope="module")
def float_run(encoder_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without quantization, timed with OpenVINO."""
    return run_on_pairs(
        tmp_path_factory.mktemp("float_embedding"),
        16,
        f"student.checkpoint={encoder_folder}",
        "student.sparsity=0.5",
        "teacher=self",
        "training.max_steps=2",
        "recipe=pruned90",
        "recipe.num_epochs=1",
        "runtime=openvino",
    )


@pytest.mark.usefixtures("openvino_in_float32")
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_vectors_are_those_of_the_feature_extraction_pipeline(
    float_run: Path, runtime: str
) -> None:
    """Of 200 texts: the mean of the pipeline's vectors of tokens, divided by its length."""
    texts = [str(row["text"]) for row in hub_seed.reviews(180, seed=7)]
    texts += [f"Unbelievable! {text.title()} (it's lifelessness...)" for text in texts[:20]]
    reference = FeatureExtractionPipeline(
        model=AutoModel.from_pretrained(float_run / "model", add_pooling_layer=False).eval(),
        tokenizer=AutoTokenizer.from_pretrained(float_run / "model"),
    )
    ours = Pipeline(float_run, runtime=runtime)(texts)
    assert len(ours) == 200
    for vector, [tokens] in zip(ours, reference(texts), strict=True):
        mean = np.mean(tokens, axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_our_own_runtime_computes_the_mean_of_all_tokens(run: Path) -> None:
    """Texts of several lengths, so that there is padding."""
    texts = [str(row["text"]) for row in hub_seed.reviews(24, seed=5)]
    ours = np.array(Pipeline(run, runtime="sparse")(texts))
    theirs = np.array(Pipeline(run)(texts))
    assert (ours * theirs).sum(axis=1).min() > 0.995
    assert np.abs(ours - theirs).mean() < 5e-3


# The graph pools: no layer of it is cut off, and its one vector for each text is returned as it is.
EMBEDDERS = """
pipeline = Pipeline.create(
    task="transformers_embedding_extraction",
    model_path="deployment/",
    emb_extraction_layer=None,
    sequence_length=64,
)
print(json.dumps(pipeline(given).embeddings))
"""


@pytest.mark.skipif(peer_python() is None, reason="no peer environment: make peer-env")
def test_the_pipeline_of_deepsparse_returns_the_same_vectors(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    export(copy, ExportConfig(form="deepsparse"))
    texts = [str(row["text"]) for row in hub_seed.reviews(24, seed=5)]
    theirs = np.array(pipeline_answers(EMBEDDERS, copy / "deployment", tmp_path, texts))
    ours = np.array(Pipeline(copy, runtime="deepsparse")(texts))
    assert theirs.shape == (24, 32)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    np.testing.assert_allclose(theirs, Pipeline(copy)(texts), atol=1e-2)


def test_predict_without_torch_orders_texts(run: Path) -> None:
    query = "the plot is dull ."
    lines = [str(row["text"]) for row in hub_seed.reviews(20, seed=9)]
    (run / "texts.txt").write_text("\n".join([*lines, query]), encoding="utf-8")
    result = CliRunner().invoke(
        app, ["predict", str(run), str(run / "texts.txt"), "--similar", query, "--json"]
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found[0]["text"] == query and found[0]["similarity"] == pytest.approx(1, abs=1e-5)
    assert sorted(row["text"] for row in found) == sorted([*lines, query])
    scores = [row["similarity"] for row in found]
    assert scores == sorted(scores, reverse=True)
    (run / "empty.txt").write_text("\n \n")
    (run / "texts.csv").write_text("text,n\nfine,1\n")
    for words, problem in (
        (["empty.txt", "--similar", query], "there are no texts in "),
        (["empty.txt", "--rank", query], "there are no texts in "),
        (["texts.txt", "--similar", " "], "--similar is empty: write a text"),
        (["texts.txt", "--rank", ""], "--rank is empty: write a text"),
        (["texts.txt", "--rank", query], "reads single texts: --rank needs a model of pairs"),
        (["texts.txt", "--rank", query, "--similar", query], "both order the texts: give one"),
        (["texts.txt", "--rank", query, "--pairs"], "--rank makes the pairs itself"),
        (["texts.txt", "--similar", query, "--pairs"], "--similar compares single texts"),
        (["texts.csv", "--similar", query], "orders the lines of a .txt file"),
        (["texts.csv", "--rank", query], "orders the lines of a .txt file"),
        (["texts.csv", "a text"], "texts.csv is a file: give it alone, or texts"),
    ):
        refused = CliRunner().invoke(app, ["predict", str(run), str(run / words[0]), *words[1:]])
        assert refused.exit_code == 1 and problem in refused.output, refused.output


def test_pipeline_returns_vectors_of_length_one(run: Path) -> None:
    vectors = np.array(Pipeline(run)(["the plot is dull .", "the cast is warm ."]))
    assert vectors.shape == (2, 32)
    np.testing.assert_allclose((vectors**2).sum(axis=1), 1, atol=1e-5)
    with pytest.raises(UserError, match="single texts"):
        Pipeline(run)([("one text", "another")])


def test_the_server_gives_the_pipelines_vectors(run: Path) -> None:
    texts = [str(row["text"]) for row in hub_seed.reviews(5, seed=5)]
    expected = Pipeline(run)(texts)
    with serving([str(run)]) as port:
        status, vectors = post(port, "/embed", {"inputs": texts, "normalize": True})
        assert status == 200
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
        [collected] = post(port, "/predict", {"sequences": texts})[1].values()
        np.testing.assert_allclose(collected, expected, atol=1e-5)
        assert "length 1" in post(port, "/embed", {"inputs": "a", "normalize": False})[1]["error"]
        assert "single texts" in post(port, "/predict", {"inputs": ["a", "b"]})[1]["error"]
        tensor = {"name": "text", "shape": [5], "datatype": "BYTES", "data": texts}
        [output] = post(port, f"/v2/models/{run.name}/infer", {"inputs": [tensor]})[1]["outputs"]
        assert output["shape"] == [5, 32]
        np.testing.assert_allclose(np.reshape(output["data"], (5, 32)), expected, atol=1e-5)


def test_the_layout_of_transformers_js_has_the_vectors_of_tokens(run: Path, tmp_path: Path) -> None:
    graph = write_layout(run, "transformers.js", tmp_path) / "onnx" / "model.onnx"
    encoder = TextEncoder(run / "deployment")
    texts = [str(row["text"]) for row in hub_seed.reviews(8, seed=3)]
    inputs = encoder.batch(encoder.encode(texts))
    embeddings, tokens = InferenceSession(graph).run(
        ["sentence_embedding", "last_hidden_state"], inputs
    )
    plain = InferenceSession(run / "deployment" / "model.onnx")
    np.testing.assert_allclose(embeddings, plain.run(None, inputs)[0], atol=1e-6)
    assert tokens.shape == (*inputs["input_ids"].shape, 32)
    mask = torch.from_numpy(inputs["attention_mask"])
    means = pooled(torch.from_numpy(tokens), mask, "mean").numpy()
    np.testing.assert_allclose(means, embeddings, atol=1e-6)
    # As `sparsekit pull` makes a deployment of it.
    remove_token_vectors(graph)
    assert [each.name for each in InferenceSession(graph).get_outputs()] == ["sentence_embedding"]


def test_verify_finds_the_recorded_metrics(run: Path) -> None:
    result = CliRunner().invoke(app, ["verify", str(run)])
    assert result.exit_code == 0, result.output
    assert "spearman" in result.output and "neighbours" in result.output


def test_vectors_of_another_size_are_compared_by_similarities() -> None:
    torch.manual_seed(0)
    student = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
    assert embedding_distance(student, student).item() == pytest.approx(0, abs=1e-6)
    wide = torch.cat([student, torch.zeros(4, 8)], dim=1)
    assert embedding_distance(student, wide).item() == pytest.approx(0, abs=1e-6)
    opposite = embedding_distance(student, -student).item()
    assert opposite == pytest.approx(2, abs=1e-5)
    for width, itself in ((8, True), (16, False)):
        teacher = torch.nn.functional.normalize(torch.randn(4, width), dim=1)
        between = [
            (student[i].dot(student[j]) - teacher[i].dot(teacher[j])) ** 2
            for i in range(4)
            for j in range(4)
        ]
        expected = torch.stack(between).mean()
        if itself:
            expected += torch.stack([1 - student[i].dot(teacher[i]) for i in range(4)]).mean()
        torch.testing.assert_close(embedding_distance(student, teacher), expected)


def test_spearman_is_that_of_ranks_with_ties() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    values, scores = generator.random(50), generator.integers(0, 6, 50).astype(float)
    assert spearman(values, scores) == pytest.approx(stats.spearmanr(values, scores)[0])
    with pytest.raises(UserError, match="spearman is undefined"):
        spearman(values, np.ones(50))


def test_neighbours_are_shared_with_the_same_vectors_alone() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(40, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert neighbour_overlap(vectors, vectors) == 1.0
    # Of 39 others 10 are nearest: by chance a quarter of them is shared.
    others = vectors[generator.permutation(40)]
    assert 0.1 < neighbour_overlap(vectors, others) < 0.45


def on_a_circle(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_a_text_is_no_neighbour_of_its_own() -> None:
    # The nearest texts are 1, 0, 1 in the first and 2, 2, 1 in the second.
    overlap = neighbour_overlap(on_a_circle(0, 10, 30), on_a_circle(0, 40, 30))
    assert overlap == pytest.approx(1 / 3)


def test_neighbours_of_many_texts_are_those_of_all_cosines() -> None:
    """More texts than are compared at once."""
    generator = np.random.default_rng(0)
    both = [generator.normal(size=(600, 8)) for _ in range(2)]
    # Alike, so that some neighbours are shared.
    both[1] += both[0]
    nearest = []
    for vectors in both:
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -1)
        nearest.append([set(row[:10]) for row in np.argsort(-cosines, axis=1)])
    shared = [len(a & b) / 10 for a, b in zip(*nearest, strict=True)]
    assert neighbour_overlap(*both) == pytest.approx(np.mean(shared))


def rows_of(columns: dict[str, list[Any]]) -> SelectedRows:
    rows = Dataset.from_dict(columns)
    source = ReadRows(DatasetDict(train=rows, validation=rows))
    return SelectedRows(source, RowSelection())


PAIRS = Embedding(text_columns=["a", "b"], score_column="score")


@pytest.mark.parametrize(
    ("score", "shown"),
    [("NaN", "'NaN'"), (None, "such as NaN or missing;"), ("high", "'high'"), ("inf", "'inf'")],
)
def test_scores_that_are_no_numbers_are_named(score: Any, shown: str) -> None:
    columns = {"a": ["one", "two"], "b": ["uno", "due"], "score": ["4.5", score]}
    with pytest.raises(ConfigError, match=r"row 1 .*'score' has no finite number") as error:
        PAIRS.load(rows_of(columns))
    assert shown in str(error.value)


def test_a_pair_is_two_rows_of_one_number_and_score() -> None:
    columns = {"a": ["one", "two"], "b": ["uno", "due"], "score": ["4.5", "1"]}
    rows = PAIRS.load(rows_of(columns)).splits["train"]
    assert rows["text"][:] == ["one", "uno", "two", "due"]
    assert rows["label"][:] == [[0.0, 4.5], [0.0, 4.5], [1.0, 1.0], [1.0, 1.0]]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"score_column": "score"}, "name both columns of the pair"),
        ({"metrics": ["accuracy"]}, "'accuracy' is not known for embedding"),
        ({"metrics": ["spearman"]}, "spearman compares with scores"),
        ({"text_columns": ["a", "b", "c"]}, "must name 1 or 2 columns"),
        ({"max_length": 2}, "leaves no room for text"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings: dict[str, Any], problem: str) -> None:
    assert any(problem in found for found in Embedding(**settings).problems())


def test_a_classifier_teaches_no_embeddings(teacher_folder: str) -> None:
    with pytest.raises(UserError, match="not an encoder of embeddings; choose a checkpoint"):
        label_order(Path(teacher_folder), Embedding(), teacher_folder, [])


def test_without_a_teacher_there_is_nothing_to_learn(encoder_folder: str) -> None:
    words = ["task=embedding", "dataset=csv", "dataset.data_files.train=a.csv"]
    with pytest.raises(ConfigError, match="learns from a teacher alone: set teacher=self"):
        launching.planned(*words, f"student.checkpoint={encoder_folder}")


def test_trainer_of_the_python_api(encoder_folder: str, tmp_path: Path) -> None:
    """Rows without labels, a model with a pooler, and the first token on our own runtime."""
    tokenizer = AutoTokenizer.from_pretrained(encoder_folder)
    texts = [str(row["text"]) for row in hub_seed.reviews(64, seed=0)]
    rows = Dataset.from_dict({"text": texts, **tokenizer(texts)})
    model = AutoModel.from_pretrained(encoder_folder)
    torch.manual_seed(0)
    enlarge(model)  # or the first tokens of all texts have one vector but for roundings
    trainer = SparseTrainer(
        model,
        RECIPE,
        teacher="self",
        task=Embedding(pooling="first"),
        args=TrainingArguments(
            str(tmp_path / "run"), use_cpu=True, report_to="none", eval_strategy="epoch"
        ),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model()
    assert model.pooler is None
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["metrics"]["validation"]["neighbours"] > 0.5
    export(tmp_path / "run", ExportConfig())
    texts = texts[:8]
    np.testing.assert_allclose(
        Pipeline(tmp_path / "run", runtime="sparse")(texts),
        Pipeline(tmp_path / "run")(texts),
        atol=1e-5,
    )


def test_wanda_needs_no_labels_and_obs_is_refused(encoder_folder: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(encoder_folder)
    texts = [str(row["text"]) for row in hub_seed.reviews(32, seed=0)]
    settings = {
        "train_dataset": Dataset.from_dict(dict(tokenizer(texts))),
        "processing_class": tokenizer,
        "task": Embedding(),
    }
    model = AutoModel.from_pretrained(encoder_folder)
    with pytest.raises(ConfigError, match="obs' needs a loss of labels"):
        prune(model, 0.5, method="obs", **settings)
    assert sparsity(prune(model, 0.5, method="wanda", rows=32, **settings))["overall"] > 0.49
