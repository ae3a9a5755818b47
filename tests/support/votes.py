"""A deployment whose answers anybody can compute."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from sparsekit.runtime.tasks.file import write_task
from sparsekit.runtime.tasks.text_classification import TextClassificationAnswers

VOCABULARY = {"[UNK]": 0, "bad": 1, "good": 2}


def write_votes(folder: Path) -> None:
    """Each `bad` adds 1 to the logit of `negative`, each `good` 2 to that of `positive`."""
    votes = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]], dtype=np.float32)
    folder.mkdir(parents=True)
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "sequence"])
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["votes", "input_ids"], ["words"]),
            helper.make_node("Cast", ["attention_mask"], ["weights"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["weights", "last"], ["columns"]),
            helper.make_node("Mul", ["words", "columns"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "first"], ["logits"], keepdims=0),
        ],
        "votes",
        [ids, mask],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [
            numpy_helper.from_array(votes, "votes"),
            numpy_helper.from_array(np.array([2]), "last"),
            numpy_helper.from_array(np.array([1]), "first"),
        ],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), folder / "model.onnx")
    tokenizer = Tokenizer(WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 16}')
    labels = {"id2label": {"0": "negative", "1": "positive"}, "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps(labels))
    write_task(TextClassificationAnswers(), folder)
