"""Every family of encoders that the architecture table lists, each as a tiny model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hub_seed
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForSequenceClassification

from sparsekit.models.tiny import SPECIAL, vocabulary

TEXTS = [str(row["text"]) for row in hub_seed.reviews(160, seed=0)]
# Positions that every family has.
POSITIONS = 80

BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": POSITIONS,
}
# Positions are counted from the id of the padding token.
ROBERTA = {**BERT, "max_position_embeddings": POSITIONS + 1, "type_vocab_size": 1}
DECODER = {**BERT, "num_key_value_heads": 1, "head_dim": 16}


@dataclass(frozen=True, kw_only=True)
class Family:
    """One row of the table.

    name: as people call it; model_type: of its config; settings: of a tiny model.
    tokens: how its tokenizer frames a text: "cls" ([CLS] text [SEP]), "end" (text [SEP] [CLS]) or
        "none" (the text alone, padded with the unknown token).
    """

    name: str
    model_type: str
    settings: Mapping[str, Any] = field(default_factory=lambda: BERT)
    tokens: str = "cls"
    padding_side: str = "right"


FAMILIES = (
    Family(name="BERT", model_type="bert"),
    Family(name="MegatronBERT", model_type="megatron-bert"),
    Family(name="ERNIE", model_type="ernie"),
    Family(name="ELECTRA", model_type="electra", settings={**BERT, "embedding_size": 16}),
    Family(
        name="DistilBERT",
        model_type="distilbert",
        settings={
            **{"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
            "max_position_embeddings": POSITIONS,
        },
    ),
    Family(name="RoBERTa", model_type="roberta", settings=ROBERTA),
    Family(name="XLM-RoBERTa", model_type="xlm-roberta", settings=ROBERTA),
    Family(name="XLM-RoBERTa-XL", model_type="xlm-roberta-xl", settings=ROBERTA),
    Family(name="CamemBERT", model_type="camembert", settings=ROBERTA),
    Family(name="RoBERTa-PreLayerNorm", model_type="roberta-prelayernorm", settings=ROBERTA),
    Family(name="Data2Vec", model_type="data2vec-text", settings=ROBERTA),
    Family(name="X-MOD", model_type="xmod", settings={**ROBERTA, "default_language": "en_XX"}),
    Family(
        name="MPNet",
        model_type="mpnet",
        settings={**BERT, "max_position_embeddings": POSITIONS + 1},
    ),
    Family(name="ALBERT", model_type="albert", settings={**BERT, "embedding_size": 16}),
    Family(
        name="DeBERTa",
        model_type="deberta",
        settings={**BERT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    ),
    Family(
        name="DeBERTa-v2, v3",
        model_type="deberta-v2",
        settings={
            **BERT,
            **{"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True},
            **{"position_buckets": 16, "norm_rel_ebd": "layer_norm"},
            **{"position_biased_input": False, "type_vocab_size": 0},
        },
    ),
    Family(
        name="ModernBERT, Ettin",
        model_type="modernbert",
        settings={**BERT, "num_hidden_layers": 3, "local_attention": 16},
    ),
    Family(name="EuroBERT", model_type="eurobert", settings=DECODER),
    Family(name="NomicBERT", model_type="nomic_bert"),
    Family(name="GTE", model_type="gte"),
    Family(name="Jina v3", model_type="jina_embeddings_v3"),
    Family(
        name="MobileBERT",
        model_type="mobilebert",
        settings={**BERT, "embedding_size": 16, "intra_bottleneck_size": 16},
    ),
    Family(
        name="ConvBERT",
        model_type="convbert",
        settings={**BERT, "embedding_size": 16, "conv_kernel_size": 3, "head_ratio": 1},
    ),
    Family(name="SqueezeBERT", model_type="squeezebert", settings={**BERT, "embedding_size": 32}),
    Family(name="RemBERT", model_type="rembert", settings={**BERT, "input_embedding_size": 16}),
    Family(name="RoFormer", model_type="roformer", settings={**BERT, "embedding_size": 16}),
    Family(name="ESM", model_type="esm", settings={**ROBERTA, "position_embedding_type": "rotary"}),
    Family(
        name="LayoutLM (text only)",
        model_type="layoutlm",
        settings={**BERT, "max_2d_position_embeddings": 128},
    ),
    Family(name="I-BERT", model_type="ibert", settings=ROBERTA),
    Family(name="FNet", model_type="fnet", settings=BERT),
    Family(
        name="Funnel",
        model_type="funnel",
        settings={
            **{"block_sizes": [1, 1], "d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 64},
            **{"num_decoder_layers": 1},
        },
    ),
    Family(
        name="XLNet",
        model_type="xlnet",
        settings={"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64},
        tokens="end",
        padding_side="left",
    ),
    Family(
        name="Longformer", model_type="longformer", settings={**ROBERTA, "attention_window": [8, 8]}
    ),
    Family(
        name="BigBird (full)",
        model_type="big_bird",
        settings={**BERT, "attention_type": "original_full"},
    ),
    Family(
        name="BigBird (sparse)",
        model_type="big_bird",
        settings={**BERT, "attention_type": "block_sparse", "block_size": 8},
    ),
    Family(name="Nystromformer", model_type="nystromformer"),
    Family(name="YOSO", model_type="yoso"),
    Family(name="Llama", model_type="llama", settings=DECODER, tokens="none"),
    Family(
        name="Llama, padded on the left",
        model_type="llama",
        settings=DECODER,
        tokens="none",
        padding_side="left",
    ),
    Family(name="Qwen2", model_type="qwen2", settings=DECODER, tokens="none"),
    Family(name="Qwen3", model_type="qwen3", settings=DECODER, tokens="none"),
    Family(
        name="Gemma 3",
        model_type="gemma3_text",
        settings={
            **DECODER,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        tokens="none",
    ),
    Family(
        name="GPT-2",
        model_type="gpt2",
        settings={"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS},
        tokens="none",
    ),
    Family(
        name="T5",
        model_type="t5",
        settings={"d_model": 32, "d_ff": 64, "num_layers": 2, "num_heads": 2, "d_kv": 16},
    ),
    Family(
        name="BART",
        model_type="bart",
        settings={"d_model": 32, "encoder_layers": 1, "decoder_layers": 1},
    ),
)


def family(name: str) -> Family:
    """The family of this name."""
    return next(each for each in FAMILIES if each.name == name)


def tokenizer(frame: str) -> Tokenizer:
    """A WordPiece tokenizer of the reviews that frames a text as a family's does."""
    ids_of = {token: i for i, token in enumerate(vocabulary(TEXTS))}
    made = Tokenizer(models.WordPiece(ids_of, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(SPECIAL)
    ids = [(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    if frame == "cls":
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
        )
    elif frame == "end":
        made.post_processor = processors.TemplateProcessing(
            single="$A [SEP] [CLS]", pair="$A [SEP] $B:1 [SEP]:1 [CLS]:2", special_tokens=ids
        )
    return made


def write_checkpoint(family: Family, folder: Path, labels: int = 2) -> Path:
    """A checkpoint of random weights, large enough that every layer moves the logits."""
    folder.mkdir(parents=True)
    words = tokenizer(family.tokens)
    words.save(str(folder / "tokenizer.json"))
    config = AutoConfig.for_model(
        family.model_type,
        **{
            # Some of transformers' tokenizers add a token of their own.
            **{"vocab_size": words.get_vocab_size() + 2},
            **{"pad_token_id": 0, "num_labels": labels},
            **{"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
            **family.settings,
        },
    )
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    enlarge(model)
    model.save_pretrained(folder)
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": POSITIONS - 2,
        "padding_side": family.padding_side,
        **{"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]"},
        **{"sep_token": "[SEP]", "mask_token": "[MASK]"},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@torch.no_grad()
def enlarge(model: torch.nn.Module) -> None:
    """New weights are so small that every text would get the same logits."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(std=0.1)
        elif parameter.ndim == 2:
            parameter.mul_(5)
