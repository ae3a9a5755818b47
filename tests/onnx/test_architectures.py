"""Encoders other than BERT are exported and verified too: other names, inputs and paddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hub_seed
import pytest
from launching import TAUGHT_BY_ITSELF, local, run_here
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    DistilBertConfig,
    DistilBertForMaskedLM,
    ElectraConfig,
    ElectraForPreTraining,
    RobertaConfig,
    RobertaForMaskedLM,
)

from sparsekit.models import tiny
from sparsekit.runtime.answers import predict
from sparsekit.runtime.sparse.runtime import SparseRuntime

TEXTS = [str(row["text"]) for row in hub_seed.reviews(160, seed=0)]
BERT_LIKE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def distilbert(folder: Path) -> None:
    words = tiny.vocabulary(TEXTS)
    config = DistilBertConfig(vocab_size=len(words), dim=32, n_layers=2, n_heads=2, hidden_dim=64)
    hub_seed.write_model(folder, DistilBertForMaskedLM(config), words)


def electra(folder: Path) -> None:
    words = tiny.vocabulary(TEXTS)
    config = ElectraConfig(vocab_size=len(words), embedding_size=16, **BERT_LIKE)
    hub_seed.write_model(folder, ElectraForPreTraining(config), words)


def roberta(folder: Path) -> None:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(TEXTS, 400, special_tokens=special, show_progress=False)
    config = RobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=130,
        type_vocab_size=1,
        **BERT_LIKE,
    )
    hub_seed.write_model(folder, RobertaForMaskedLM(config), [])
    (folder / "vocab.txt").unlink()
    tokenizer.save_model(str(folder))
    settings = {"tokenizer_class": "RobertaTokenizer", "model_max_length": 128}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "linears"),
    [
        (distilbert, 2 * 6 + 2),
        # One more Linear projects its smaller embeddings.
        (electra, 2 * 6 + 3),
        (roberta, 2 * 6 + 2),
    ],
)
def test_from_checkpoint_to_prediction(
    tmp_path: Path,
    csv_files: dict[str, str],
    make: Any,
    linears: int,
) -> None:
    make(tmp_path / "checkpoint")
    choices = [
        *local(csv_files, str(tmp_path / "checkpoint")),
        *("student.sparsity=0.8", "dataset.max_length=64", *TAUGHT_BY_ITSELF),
    ]
    summary = run_here(tmp_path / "run", *choices)
    assert summary["export"]["verified"] is True
    assert (summary["export"]["int8_matmuls"], summary["export"]["fp32_matmuls"]) == (linears, 0)
    assert summary["sparsity"]["overall"] == pytest.approx(0.8, abs=1e-3)
    (answer,) = predict(tmp_path / "run" / "deployment", ["the plot is dull ."])
    assert answer["label"] in ("0", "1")
    if SparseRuntime.missing() is None:
        texts = ["the plot is dull ."]
        (other,) = predict(tmp_path / "run" / "deployment", texts, kind=SparseRuntime)
        assert other["scores"] == pytest.approx(answer["scores"], abs=1e-3)
