"""What tells models of one name apart: the files of folders, the weights in memory."""

from __future__ import annotations

from pathlib import Path

import torch
from shaped import classifier

from sparsekit.models.contents import models_hash, tensors_hash


def test_a_config_is_known_by_the_weights_in_the_folders_that_it_names(tmp_path: Path) -> None:
    assert models_hash({"student": {"checkpoint": "bert-base-uncased"}, "teacher": {}}) is None
    model, folder = classifier(), tmp_path / "dense"
    model.save_pretrained(folder)
    named = [
        {"student": {"checkpoint": str(folder)}},
        {"teacher": {"checkpoint": ["some/id", str(folder)]}},
        {"teacher": {"base": str(folder)}},
        {"dataset": {"augment": {"masked_lm": str(folder)}}},
    ]
    before = [models_hash(values) for values in named]
    assert None not in before and before == [models_hash(values) for values in named]
    with torch.no_grad():
        model.get_parameter("classifier.bias")[0] += 1
    model.save_pretrained(folder)
    assert all(models_hash(values) != old for values, old in zip(named, before, strict=True))
    (folder / "model.safetensors").unlink()
    assert models_hash(named[0])  # Loading it raises the error that names it.


def test_a_new_head_leaves_the_hash_of_the_layers(tmp_path: Path) -> None:
    model = classifier().bfloat16()
    before = tensors_hash(model)
    with torch.no_grad():
        model.get_parameter("classifier.weight").mul_(2)
    head = tensors_hash(model)
    assert head["layers"] == before["layers"] and head["others"] != before["others"]
    with torch.no_grad():
        model.get_parameter("bert.encoder.layer.0.output.dense.weight")[0, 0] = 0
    layers = tensors_hash(model)
    assert layers["layers"] != head["layers"] and layers["others"] == head["others"]
