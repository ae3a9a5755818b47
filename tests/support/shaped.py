"""Tiny models of every family whose structures are known, with what is to be removed of them."""

from __future__ import annotations

import torch
from families import FAMILIES
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from sparsekit.shape.blocks import MODEL_TYPES
from sparsekit.shape.kept import Kept

KNOWN = [family for family in FAMILIES if family.model_type in MODEL_TYPES]
OTHERS = [family for family in FAMILIES if family.model_type not in MODEL_TYPES]


def classifier(model_type: str = "bert", layers: int = 3, seed: int = 0) -> PreTrainedModel:
    """A classifier of 3 layers with 4 heads, 64 neurons and 32 hidden features, without dropout."""
    (family,) = [family for family in KNOWN if family.model_type == model_type]
    names = {"num_hidden_layers": layers, "num_attention_heads": 4}
    if model_type == "distilbert":
        names = {"n_layers": layers, "n_heads": 4}
    settings = {**family.settings, **names, "vocab_size": 400}
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model(model_type, **settings)
    )
    for parameter in model.parameters():
        # Biases start at 0 and norms at 1, which would hide that one is left out.
        torch.nn.init.normal_(parameter, parameter.mean().item(), 0.2)
    return model.eval()


def some(model: PreTrainedModel, what: str) -> Kept:
    """All structures but some: of heads, neurons, hidden, layers, or of all of them (mixed)."""
    kept = Kept.all(model)
    changed = {name: getattr(kept, name) for name in ("layers", "heads", "neurons", "hidden")}
    if what in ("heads", "mixed"):
        changed["heads"] = (torch.tensor([0, 2]), torch.arange(0), torch.arange(4))
    if what in ("neurons", "mixed"):
        changed["neurons"] = (torch.arange(0), torch.arange(1, 64, 2), torch.arange(8, 40))
    if what in ("hidden", "mixed"):
        changed["hidden"] = torch.tensor([i for i in range(32) if i % 4 != 1])
    if what in ("layers", "mixed"):
        changed["layers"] = torch.tensor([1, 2])
    return Kept(**changed)


def batch() -> dict[str, Tensor]:
    """Two rows of tokens, the second one padded."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(5, 400, (2, 9), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask}
