"""SparseML's names in ours."""

from __future__ import annotations


def ours(name: str) -> str:
    """Our name for what SparseML calls a module or buffer of a fake-quantizer."""
    return (
        name.replace(".quant.activation_post_process", ".input_quantizer")
        .replace(".module.weight_fake_quant", ".weight_quantizer")
        .replace(".weight_fake_quant", ".weight_quantizer")
        .replace(".activation_post_process", ".output_quantizer")
    )
