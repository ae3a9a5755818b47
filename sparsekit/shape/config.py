"""The sizes of a shaped model in its `config.json`, and the model that they describe.

Where every layer has the same sizes, and the architecture can have them, its own keys hold them and
transformers loads the model by itself. Otherwise the keys stay those of the model that was cut, and
`sparsekit_shape` has what is left, which `shaped` reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from sparsekit.errors import UserError
from sparsekit.shape.blocks import MPNET, blocks
from sparsekit.shape.kept import Kept, hidden_width
from sparsekit.shape.removal import head_indices, remove

KEY = "sparsekit_shape"


@dataclass(frozen=True)
class Shape:
    """What is left of each layer.

    heads: the indices of the heads of each layer; neurons: the feed-forward width of each layer;
    hidden: the width of the hidden states; head_size: the features of a head.
    """

    heads: list[list[int]]
    neurons: list[int]
    hidden: int
    head_size: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> Shape:
        """The shape of `model`."""
        layers = blocks(model)
        return cls(
            heads=[head_indices(block) for block in layers],
            neurons=[block.neurons for block in layers],
            hidden=hidden_width(model),
            head_size=layers[0].head_size,
        )

    @classmethod
    def read(cls, config: PreTrainedConfig) -> Shape | None:
        """The shape in the config; None where its own keys say all.

        Raises UserError where it is not one that can be cut from the sizes in the config.
        """
        values = getattr(config, KEY, None)
        if values is None:
            return None
        layers = config.num_hidden_layers
        limit, widest = config.num_attention_heads, _intermediate(config)
        try:
            shape = cls(
                heads=[[int(head) for head in heads] for heads in values["heads"]],
                neurons=[int(width) for width in values["neurons"]],
                hidden=int(values["hidden"]),
                head_size=config.hidden_size // limit,
            )
        except (TypeError, KeyError, ValueError) as error:
            raise UserError(f"{KEY} in config.json cannot be read: {error!r}; {_AGAIN}") from error
        fits = (
            len(shape.heads) == len(shape.neurons) == layers
            and all(heads == sorted({*heads} & {*range(limit)}) for heads in shape.heads)
            and all(0 <= width <= widest for width in shape.neurons)
            and 0 < shape.hidden <= config.hidden_size
        )
        if not fits:
            raise UserError(
                f"{KEY} in config.json does not fit its {layers} layers of {limit} heads, {widest} "
                f"neurons and {config.hidden_size} hidden features; {_AGAIN}"
            )
        return shape

    @property
    def is_even(self) -> bool:
        """Whether all layers are alike, with heads that together are as wide as the hidden states.

        Only these can the architectures have by themselves.
        """
        counts = {len(heads) for heads in self.heads}
        return (
            len(counts) == 1
            and counts.pop() * self.head_size == self.hidden
            and len(set(self.neurons)) == 1
            and min(self.neurons) > 0
        )


_AGAIN = "the file was changed: shrink or train the model again"


def _intermediate(config: PreTrainedConfig) -> int:
    return int(config.hidden_dim if config.model_type == "distilbert" else config.intermediate_size)


def describe(model: PreTrainedModel) -> None:
    """Write the sizes that `model` has into its config."""
    config, shape = model.config, Shape.of(model)
    layers = blocks(model)
    # MPNet's heads share a table of position biases, of which they need their own columns.
    fixed_heads = layers[0].layout is MPNET and len(shape.heads[0]) < config.num_attention_heads
    # A width that equals that of the embeddings would leave out the projection between them.
    embedded = getattr(config, "embedding_size", config.hidden_size)
    projected = embedded != config.hidden_size and embedded == shape.hidden
    if not shape.is_even or fixed_heads or projected:
        values = {"heads": shape.heads, "neurons": shape.neurons, "hidden": shape.hidden}
        setattr(config, KEY, values)
        return
    if hasattr(config, KEY):
        delattr(config, KEY)
    if getattr(config, "embedding_size", None) == config.hidden_size:
        config.embedding_size = shape.hidden
    config.hidden_size = shape.hidden
    config.num_attention_heads = len(shape.heads[0])
    width = "hidden_dim" if config.model_type == "distilbert" else "intermediate_size"
    setattr(config, width, shape.neurons[0])
    for block in layers:
        # The model is now one that was built with these heads.
        block.part(block.layout.attention).__dict__.pop("head_indices", None)


def shaped(architecture: type[Any], config: PreTrainedConfig) -> type[Any]:
    """The class whose `from_pretrained` loads a model of this config, with the sizes it has left.

    `architecture` itself, a model's class or one such as AutoModelForSequenceClassification, for a
    config without a shape. Raises UserError for a shape that cannot be.

    Example:
        ```python
        config = AutoConfig.from_pretrained(folder)
        model = shaped(AutoModelForSequenceClassification, config).from_pretrained(folder)
        ```
    """
    shape = Shape.read(config)
    if shape is None:
        return architecture
    mapping = getattr(architecture, "_model_mapping", None)
    concrete = architecture if mapping is None else mapping[type(config)]
    if not issubclass(concrete, PreTrainedModel):
        # A task's own loader, which calls this function for the class that it loads.
        return architecture

    class Shaped(concrete):  # type: ignore[misc, valid-type]
        def __init__(self, config: PreTrainedConfig, *args: Any, **options: Any) -> None:
            super().__init__(config, *args, **options)
            _build(cast(PreTrainedModel, self), shape)

    # Under its own name: that is what a saved config names as the architecture.
    Shaped.__name__, Shaped.__qualname__ = concrete.__name__, concrete.__qualname__
    Shaped.__module__ = concrete.__module__
    return Shaped


def _build(model: PreTrainedModel, shape: Shape | None) -> None:
    """Cut a new model, whose weights are about to be loaded, to the shape."""
    assert shape is not None
    kept = Kept(
        layers=torch.arange(len(shape.heads), device="cpu"),
        heads=tuple(torch.tensor(heads, dtype=torch.long, device="cpu") for heads in shape.heads),
        neurons=tuple(torch.arange(width, device="cpu") for width in shape.neurons),
        hidden=torch.arange(shape.hidden, device="cpu"),
    )
    remove(model, kept)
