"""Small random encoders as our exporter writes them, for the tests of runtime=sparse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    CamembertConfig,
    CamembertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DebertaV2ForTokenClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    EuroBertConfig,
    EuroBertForSequenceClassification,
    GteConfig,
    GteForSequenceClassification,
    JinaEmbeddingsV3Config,
    JinaEmbeddingsV3ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    MegatronBertConfig,
    MegatronBertForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    NomicBertConfig,
    NomicBertForSequenceClassification,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaPreLayerNormConfig,
    RobertaPreLayerNormForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from sparsekit.models.pruning import prune
from sparsekit.models.saving import own_names
from sparsekit.modifiers.quantization.qat import Quantization
from sparsekit.onnx.layers import read_layers
from sparsekit.onnx.trace import load_model
from sparsekit.onnx.write import write_graphs
from sparsekit.runtime.base import Inputs
from sparsekit.tasks.base import Task
from sparsekit.tasks.text_classification import TextClassification

VOCABULARY, POSITIONS = 120, 280
# More inputs than a chunk holds, more outputs than a panel; heads of 28 features, a block of eight
# of them being left; all of them no multiples of 16.
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 280,
    "num_hidden_layers": 2,
    "num_attention_heads": 10,
    "intermediate_size": 900,
    "max_position_embeddings": POSITIONS + 2,
}
TILED = SIZES | {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 320}
SMALL = SIZES | {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
SHARED = SMALL | {
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0},
    **{"bos_token_id": 1, "eos_token_id": 2},
}

MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": lambda: BertForSequenceClassification(BertConfig(**SIZES)),
    "bert_relu": lambda: BertForSequenceClassification(BertConfig(**SMALL, hidden_act="relu")),
    "bert_tanh": lambda: BertForSequenceClassification(
        BertConfig(**SMALL, hidden_act="gelu_pytorch_tanh")
    ),
    "bert_silu": lambda: BertForSequenceClassification(BertConfig(**SMALL, hidden_act="silu")),
    "bert_quick_gelu": lambda: BertForSequenceClassification(
        BertConfig(**SMALL, hidden_act="quick_gelu")
    ),
    "bert_odd_heads": lambda: BertForSequenceClassification(
        BertConfig(**SMALL | {"hidden_size": 36, "num_attention_heads": 6})
    ),
    "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**SMALL)),
    "camembert": lambda: CamembertForSequenceClassification(CamembertConfig(**SMALL)),
    "xlm_roberta": lambda: XLMRobertaForSequenceClassification(XLMRobertaConfig(**SMALL)),
    "electra": lambda: ElectraForSequenceClassification(ElectraConfig(**SMALL, embedding_size=16)),
    # One layer's weights four times, and GELU by tanh as eight nodes.
    "albert": lambda: AlbertForSequenceClassification(
        AlbertConfig(**SMALL | {"num_hidden_layers": 4}, embedding_size=16)
    ),
    # Terms of pairs of tokens.
    "mpnet": lambda: MPNetForSequenceClassification(MPNetConfig(**SMALL)),
    # Pre-norm, with a norm before the first layer, and without one after the embeddings.
    "roberta_prelayernorm": lambda: RobertaPreLayerNormForSequenceClassification(
        RobertaPreLayerNormConfig(**SMALL)
    ),
    "megatron_bert": lambda: MegatronBertForSequenceClassification(MegatronBertConfig(**SMALL)),
    # Pre-norm, gated, rotated; windows of 8 tokens to either side in one layer of two.
    "modernbert": lambda: modernbert(),
    "modernbert_mean": lambda: modernbert(classifier_pooling="mean"),
    # Disentangled attention, as DeBERTa-v3 has it: positions in buckets of distances, whose keys
    # and queries are those of the tokens' own layers.
    "deberta_v3": lambda: deberta_v3(),
    "deberta_v3_tokens": lambda: deberta_v3(DebertaV2ForTokenClassification),
    # Either of both products, none of them, layers of their own for positions, and embeddings of
    # another width, or with positions and types.
    "deberta_v2_keys": lambda: deberta_v3(pos_att_type=["c2p"]),
    "deberta_v2_queries": lambda: deberta_v3(pos_att_type=["p2c"], norm_rel_ebd="none"),
    "deberta_v2_content": lambda: deberta_v3(relative_attention=False),
    "deberta_v2_apart": lambda: deberta_v3(
        share_att_key=False, position_buckets=-1, max_relative_positions=20
    ),
    "deberta_v2_embeddings": lambda: deberta_v3(embedding_size=16),
    "deberta_v2_biased": lambda: deberta_v3(position_biased_input=True, type_vocab_size=2),
    # Rotary positions of separate queries and keys.
    "nomic_bert": lambda: NomicBertForSequenceClassification(NomicBertConfig(**SMALL)),
    "gte": lambda: GteForSequenceClassification(GteConfig(**SMALL, type_vocab_size=2)),
    "jina_v3": lambda: JinaEmbeddingsV3ForSequenceClassification(
        JinaEmbeddingsV3Config(**SMALL, type_vocab_size=2)
    ),
    # Norms by the root mean square, and queries that share keys and values.
    "eurobert": lambda: EuroBertForSequenceClassification(EuroBertConfig(**SHARED)),
    "eurobert_bos": lambda: EuroBertForSequenceClassification(
        EuroBertConfig(**SHARED | {"num_key_value_heads": 4}, classifier_pooling="bos")
    ),
    # Each token reads those before it, and the head the last one that is no padding.
    "llama": lambda: LlamaForSequenceClassification(LlamaConfig(**SHARED)),
    "qwen2": lambda: Qwen2ForSequenceClassification(Qwen2Config(**SHARED)),
    # Multiples of 64: of whole tiles of AMX.
    "bert_tiles": lambda: BertForSequenceClassification(BertConfig(**TILED)),
    # Rows of more tiles than are multiplied at a time.
    "bert_long_rows": lambda: BertForSequenceClassification(
        BertConfig(**TILED | {"intermediate_size": 896})
    ),
    # A head's features fill two tiles, or one of fewer rows, where the weights are no tiles.
    "bert_wide_heads": lambda: BertForSequenceClassification(
        BertConfig(**TILED | {"num_attention_heads": 1})
    ),
    "bert_uneven_heads": lambda: BertForSequenceClassification(
        BertConfig(**TILED | {"hidden_size": 160, "num_attention_heads": 2})
    ),
    "modernbert_tiles": lambda: modernbert(**TILED),
    "distilbert": lambda: DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=VOCABULARY, dim=32, n_layers=2, n_heads=2, hidden_dim=64)
    ),
}


def modernbert(**settings: Any) -> PreTrainedModel:
    config = ModernBertConfig(
        **SMALL | {"num_hidden_layers": 3, "intermediate_size": 72} | settings,
        local_attention=16,
        global_attn_every_n_layers=2,
        **dict.fromkeys(("pad_token_id", "cls_token_id", "bos_token_id"), 0),
        **dict.fromkeys(("sep_token_id", "eos_token_id"), 1),
    )
    return ModernBertForSequenceClassification(config)


def deberta_v3(
    kind: type[PreTrainedModel] = DebertaV2ForSequenceClassification, **settings: Any
) -> PreTrainedModel:
    defaults: dict[str, Any] = {
        **SMALL,
        "type_vocab_size": 0,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 32,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
        # Otherwise scores hardly depend on positions.
        "initializer_range": 0.05,
    }
    return kind(DebertaV2Config(**defaults | settings))


def write_graph(
    folder: Path,
    model: str,
    *,
    sparsity: float = 0.8,
    quantized: bool = True,
    form: str = "qdq",
    task: Task | None = None,
    **settings: bool,
) -> Path:
    """The exported graph of a random model with zeros; `settings` are Quantization's."""
    torch.manual_seed(0)
    made = MODELS[model]().eval()
    with torch.no_grad():
        # New weights are so small that every text would get the same logits.
        for name, parameter in made.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
            elif parameter.ndim == 2:
                parameter.mul_(200 / SIZES["hidden_size"] * 4)
    prune(made, sparsity)
    if quantized:
        quantize(made, **settings)
    with own_names(made.eval()):
        made.save_pretrained(folder / "model")
    task = TextClassification() if task is None else task
    loaded, state = load_model(folder / "model", task)
    layers = read_layers(loaded, state)
    write_graphs(loaded, task, layers, folder / "model.onnx", folder / "traced.onnx", form)
    return folder / "model.onnx"


def quantize(model: PreTrainedModel, **settings: bool) -> None:
    modifier = Quantization(
        start=0.0,
        disable_observer_epoch=1.0,
        submodules=[],
        exclude_module_types=["LayerNorm", "Tanh"],
        **settings,
    )
    modifier.attach(model)
    modifier.update(0.0)
    with torch.no_grad():
        model.train()(input_ids=torch.randint(5, VOCABULARY, (4, 32)))
    modifier.update(2.0)


def texts(batch: int, length: int, seed: int = 0, padded: bool = True) -> Inputs:
    """Random tokens of two types; `padded`: rows end early, up to half of them, one has a gap."""
    random = np.random.default_rng(seed)
    ids = random.integers(5, VOCABULARY, (batch, length))
    mask = np.ones_like(ids)
    if padded:
        for row in range(1, batch):
            mask[row, length - random.integers(0, length // 2 + 1) :] = 0
        mask[0, 1 : length // 4] = 0
    types = np.broadcast_to(np.arange(length) >= length // 2, ids.shape).astype(ids.dtype)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
