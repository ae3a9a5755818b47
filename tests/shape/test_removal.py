"""A model without structures computes what it computes with these structures masked."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from families import Family, family
from shaped import KNOWN, OTHERS, batch, classifier, some
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from sparsekit.errors import UserError
from sparsekit.shape.blocks import blocks
from sparsekit.shape.config import KEY, describe, shaped
from sparsekit.shape.kept import Kept
from sparsekit.shape.masking import structure_masks
from sparsekit.shape.removal import remove

STRUCTURES = ["heads", "neurons", "hidden", "layers", "mixed"]


def logits(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return model(**batch()).logits


@contextlib.contextmanager
def masked(model: PreTrainedModel, kept: Kept) -> Iterator[None]:
    """The model of full size, whose removed structures compute nothing."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, mask in structure_masks(model, kept).items():
            parameters[name].mul_(mask)
    hooks = []
    features = torch.zeros(32)
    features[kept.hidden] = 1

    def over_kept(norm: nn.LayerNorm, inputs: tuple[Tensor], _: Tensor) -> Tensor:
        values = [each[..., kept.hidden] for each in (inputs[0], norm.weight, norm.bias)]
        result = torch.zeros_like(inputs[0])
        result[..., kept.hidden] = F.layer_norm(
            values[0], values[0].shape[-1:], *values[1:], eps=norm.eps
        )
        return result

    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm) and module.normalized_shape == (32,):
            hooks.append(module.register_forward_hook(over_kept))
        writes = isinstance(module, nn.Linear) and module.out_features == 32
        if writes and not any(name.startswith(block.name) for block in blocks(model)):
            hooks.append(module.register_forward_hook(lambda *call: call[-1] * features))
    for index, block in enumerate(blocks(model)):
        if index not in kept.layers:
            hooks.append(block.module.register_forward_hook(skipped))
    yield
    for hook in hooks:
        hook.remove()


def skipped(_: nn.Module, inputs: tuple[Tensor, ...], output: object) -> object:
    return inputs[0] if isinstance(output, Tensor) else (inputs[0], *output[1:])  # type: ignore[index]


@pytest.mark.parametrize("what", STRUCTURES)
@pytest.mark.parametrize("family", KNOWN, ids=lambda family: family.model_type)
def test_masked_equals_removed(family: Family, what: str) -> None:
    model = classifier(family.model_type)
    kept, whole = some(model, what), logits(model)
    reference = copy.deepcopy(model)
    with masked(reference, kept):
        expected = logits(reference)
    remove(model, kept)
    assert (expected - whole).abs().max() > 1e-3
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-5)


def reloaded(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The model as it is saved and loaded, with no weight missing or left over."""
    describe(model)
    model.save_pretrained(folder)
    architecture = shaped(AutoModelForSequenceClassification, AutoConfig.from_pretrained(folder))
    loaded, info = architecture.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=1e-6)
    return loaded  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", KNOWN, ids=lambda family: family.model_type)
def test_a_saved_model_loads_with_the_sizes_it_has(family: Family, tmp_path: Path) -> None:
    model = classifier(family.model_type)
    remove(model, some(model, "mixed"))
    loaded = reloaded(model, tmp_path)
    assert type(loaded).__name__ == type(model).__name__
    # And again: indices of heads are those of the first model.
    heads = [block.heads for block in blocks(loaded)]
    again = Kept.all(loaded)
    fewer = tuple(each[1:] if len(each) > 1 else each for each in again.heads)
    remove(loaded, Kept(again.layers, fewer, again.neurons, again.hidden))
    describe(loaded)
    assert getattr(loaded.config, KEY)["heads"][1] == [1, 2, 3]
    assert [block.heads for block in blocks(loaded)] == [max(0, count - 1) for count in heads]


@pytest.mark.parametrize("family", KNOWN, ids=lambda family: family.model_type)
def test_transformers_loads_even_sizes_by_itself(family: Family, tmp_path: Path) -> None:
    model = classifier(family.model_type)
    kept = Kept.all(model)
    heads = kept.heads if family.model_type == "mpnet" else (torch.tensor([0, 1, 3]),) * 3
    hidden = kept.hidden if family.model_type == "mpnet" else torch.arange(0, 24)
    remove(model, Kept(torch.tensor([0, 2]), heads, (torch.arange(16),) * 3, hidden))
    describe(model)
    model.save_pretrained(tmp_path)
    assert not hasattr(AutoConfig.from_pretrained(tmp_path), KEY)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=1e-6)


def test_hidden_states_as_wide_as_electras_embeddings(tmp_path: Path) -> None:
    """Of these widths transformers builds no projection between them, but there is one."""
    model = classifier("electra")
    embedded = model.config.embedding_size
    assert embedded < model.config.hidden_size
    kept, heads = Kept.all(model), embedded // (model.config.hidden_size // 4)
    every = (torch.arange(heads),) * 3
    remove(model, Kept(kept.layers, every, kept.neurons, torch.arange(embedded)))
    reloaded(model, tmp_path)


def test_plain_transformers_refuses_uneven_sizes(tmp_path: Path) -> None:
    model = classifier()
    remove(model, some(model, "neurons"))
    describe(model)
    model.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match=r"size mismatch|ignore_mismatched_sizes"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "values",
    [
        {"heads": [[0], [1], [4]], "neurons": [1, 1, 1], "hidden": 32},
        {"heads": [[0], [1], [1, 0]], "neurons": [1, 1, 1], "hidden": 32},
        {"heads": [[0], [1]], "neurons": [1, 1], "hidden": 32},
        {"heads": [[0], [1], [2]], "neurons": [1, 1, 65], "hidden": 32},
        {"heads": [[0], [1], [2]], "neurons": [1, 1, 1], "hidden": 0},
        {"heads": [[0], [1], ["x"]], "neurons": [1, 1, 1], "hidden": 32},
        {"heads": 3, "neurons": 4},
    ],
)
def test_a_shape_that_does_not_fit_is_refused(values: object) -> None:
    config = classifier().config
    setattr(config, KEY, values)
    with pytest.raises(UserError, match="shrink or train the model again"):
        shaped(AutoModelForSequenceClassification, config)


@pytest.mark.parametrize(
    "name", ["ALBERT", "DeBERTa-v2, v3", "MobileBERT", "BigBird (full)", "GPT-2"]
)
def test_other_architectures_are_refused_in_one_sentence(name: str) -> None:
    other = family(name)
    assert other in OTHERS
    config = AutoConfig.for_model(other.model_type, **{**other.settings, "vocab_size": 40})
    model = AutoModelForSequenceClassification.from_config(config)
    refusal = rf"\({other.model_type}\) are not known; choose one of bert"
    with pytest.raises(UserError, match=refusal):
        blocks(model)


def test_a_hidden_width_of_as_many_labels_is_refused() -> None:
    config = classifier().config
    config.num_labels = 32
    model = AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(UserError, match="as many outputs, 32"):
        remove(model, some(model, "hidden"))
