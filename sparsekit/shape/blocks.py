"""The transformer layers of a BERT-like model, found in its module tree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel

from sparsekit.errors import UserError

MODEL_TYPES = ("bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")


@dataclass(frozen=True)
class Layout:
    """Where a layer has its modules, as paths below the layer."""

    attention: str
    query: str
    key: str
    value: str
    attention_output: str
    attention_norm: str
    intermediate: str
    output: str
    output_norm: str


BERT = Layout(
    attention="attention.self",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    intermediate="intermediate.dense",
    output="output.dense",
    output_norm="output.LayerNorm",
)
DISTILBERT = Layout(
    attention="attention",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attention_output="attention.out_lin",
    attention_norm="sa_layer_norm",
    intermediate="ffn.lin1",
    output="ffn.lin2",
    output_norm="output_layer_norm",
)
MPNET = Layout(
    attention="attention.attn",
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    attention_output="attention.attn.o",
    attention_norm="attention.LayerNorm",
    intermediate="intermediate.dense",
    output="output.dense",
    output_norm="output.LayerNorm",
)


class Constant(nn.Module):
    """What is left of a Linear layer without inputs: its bias [out], whatever it is given."""

    def __init__(self, bias: nn.Parameter) -> None:
        super().__init__()
        self.bias = bias

    def forward(self, _: Tensor) -> Tensor:
        return self.bias


class NoAttention(nn.Module):
    """Stands for the attention of a layer that has no heads left.

    Its `output` module, if the attention had one of its own, is what the layer adds.
    """

    def forward(self, hidden_states: Tensor, *_: object, **__: object) -> tuple[Tensor, None]:
        for output in self.children():
            hidden_states = output(hidden_states)
        return hidden_states, None


@dataclass(frozen=True)
class Block:
    """One layer of the encoder.

    name: the module's; head_size: features of a head, also where no head is left.
    """

    name: str
    module: nn.Module
    layout: Layout
    head_size: int

    def part(self, path: str) -> nn.Module:
        """The module at a path of the layout."""
        return self.module.get_submodule(path)

    def linear(self, path: str) -> nn.Linear:
        """The Linear layer at a path of the layout, which must be left."""
        found = self.part(path)
        assert isinstance(found, nn.Linear)
        return found

    def replace(self, path: str, module: nn.Module) -> None:
        """Put another module at a path of the layout."""
        parent, _, name = path.rpartition(".")
        setattr(self.module.get_submodule(parent), name, module)

    @property
    def heads(self) -> int:
        """The number of heads that are left."""
        if isinstance(self.part(self.layout.attention), NoAttention):
            return 0
        return self.linear(self.layout.query).out_features // self.head_size

    @property
    def neurons(self) -> int:
        """The width of the feed-forward layer that is left."""
        found = self.part(self.layout.output)
        return found.in_features if isinstance(found, nn.Linear) else 0


def blocks(model: PreTrainedModel) -> list[Block]:
    """The layers of the model, the first one first; raises UserError where they are not known."""
    layout, name, stack = _stack(model)
    config = model.config
    head_size = config.hidden_size // config.num_attention_heads
    return [
        Block(f"{name}.{index}", module, layout, head_size) for index, module in enumerate(stack)
    ]


def layer_stack(model: PreTrainedModel) -> nn.ModuleList:
    """The list of the model's layers; raises UserError where they are not known."""
    return _stack(model)[2]


def _stack(model: PreTrainedModel) -> tuple[Layout, str, nn.ModuleList]:
    if model.config.model_type in MODEL_TYPES:
        for name, module in model.named_modules():
            if not isinstance(module, nn.ModuleList) or not len(module):
                continue
            for layout in (BERT, DISTILBERT, MPNET):
                if all(_fits(layer, layout) for layer in module):
                    return layout, name, module
    raise UserError(
        f"the heads, neurons and layers of a {type(model).__name__} ({model.config.model_type}) "
        f"are not known; choose one of {', '.join(MODEL_TYPES)}"
    )


def _fits(layer: nn.Module, layout: Layout) -> bool:
    """Whether the layer has the layout's modules, and no parameter beside theirs."""
    needed = {layout.attention_output, layout.attention_norm, layout.output, layout.output_norm}
    paths = {*vars(layout).values()} - {layout.attention}
    owners = {name for name, module in layer.named_modules() if name in paths}
    return needed <= owners and set(_owners(layer)) <= owners


def _owners(layer: nn.Module) -> Iterator[str]:
    for name, _ in layer.named_parameters():
        yield name.rpartition(".")[0]
