"""Why graphs of architectures are not supported, in words of the architecture."""

from __future__ import annotations

from pathlib import Path

from sparsekit.errors import parse_json

_ROTARY = "its rotary positions do not have the form that the kernels compute, ModernBERT's"
_HEAD_NORMS = "its queries and keys have norms of their own, of which there is no kernel"
_CONVOLUTION = "a convolution is added to its first layer (conv_kernel_size)"
# By `model_type`.
_REASONS = {
    "deberta": "one layer makes query, key and value head by head, and the norms are written out",
    "xmod": "each of its layers has an adapter after the feed-forward part",
    "roformer": _ROTARY,
    "esm": _ROTARY,
    "mobilebert": "its layers have a bottleneck around several feed-forward parts",
    "convbert": "part of its attention is a convolution whose kernel depends on the text",
    "xlnet": "its attention compares tokens with relative positions by matmuls of their own",
    "qwen3": _HEAD_NORMS,
    "gemma3_text": _HEAD_NORMS,
}


def unsupported(model: Path) -> str | None:
    """The reason for the graph in `model`, a file beside its `config.json`; None: not known."""
    try:
        config = parse_json(model.with_name("config.json").read_bytes())
        model_type = config["model_type"]
        reason = _REASONS.get(model_type)
        if model_type == "deberta-v2" and config.get("conv_kernel_size"):
            reason = _CONVOLUTION
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if reason is None:
        return None
    return (
        f"runtime=sparse does not support the architecture {model_type}: {reason}; run this model "
        "with runtime=openvino or runtime=onnxruntime"
    )
