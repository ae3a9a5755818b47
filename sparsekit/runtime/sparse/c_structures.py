"""ctypes mirrors of the C encoder's structures, compared with C when it is loaded."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_float, c_int, c_long, c_void_p

from sparsekit.runtime.sparse.graph import Array


class QuantizerStruct(Structure):
    _fields_ = (
        ("format", c_long),
        ("scale", c_float),
        ("inverse", c_float),
        ("zero_point", c_float),
        ("low", c_float),
        ("high", c_float),
    )


class WeightStruct(Structure):
    _fields_ = (
        ("rows", c_long),
        ("chunks", c_long),
        ("format", c_long),
        ("pointers", c_void_p),
        ("indices", c_void_p),
        ("values", c_void_p),
        ("initial_sums", c_void_p),
        ("scales", c_void_p),
        ("biases", c_void_p),
    )


class AttentionStruct(Structure):
    _fields_ = (
        ("heads", c_long),
        ("features", c_long),
        ("tiles", c_long),
        ("scale", c_float),
        ("query", QuantizerStruct),
        ("key", QuantizerStruct),
        ("probabilities", QuantizerStruct),
        ("value", QuantizerStruct),
    )


class NormStruct(Structure):
    _fields_ = (
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("epsilon", c_float),
        ("centered", c_long),
    )


class LayerStruct(Structure):
    _fields_ = (
        ("projection", WeightStruct),
        ("value", WeightStruct),
        ("attention_output", WeightStruct),
        ("intermediate", WeightStruct),
        ("output", WeightStruct),
        ("input", QuantizerStruct),
        ("value_input", QuantizerStruct),
        ("context", QuantizerStruct),
        ("normalized", QuantizerStruct),
        ("activated", QuantizerStruct),
        ("attention", AttentionStruct),
        ("attention_norm", NormStruct),
        ("output_norm", NormStruct),
        ("activation", c_long),
        ("terms", c_long),
    )


class EncoderStruct(Structure):
    _fields_ = (
        ("layers", c_long),
        ("features", c_long),
        ("attention_features", c_long),
        ("intermediate_features", c_long),
        ("values", c_long),
        ("all_tokens", c_long),
        ("pre_norm", c_long),
        ("layer", POINTER(LayerStruct)),
    )


class TableStruct(Structure):
    _fields_ = (
        ("type", c_int),
        ("scale", c_float),
        ("zero_point", c_float),
        ("rows", c_void_p),
        ("ids", c_void_p),
    )


class EmbeddingStruct(Structure):
    _fields_ = (
        ("tables", c_long),
        ("length", c_long),
        ("keep_sums", c_long),
        ("table", TableStruct * 4),
        ("norm", NormStruct),
        ("factors", c_void_p),
    )


class ScoreTermsStruct(Structure):
    _fields_ = (
        ("masks", c_void_p),
        ("pairs", c_void_p),
        ("cosines", c_void_p),
        ("sines", c_void_p),
        ("length", c_long),
        ("padded", c_long),
        ("pair_row", c_long),
        ("pair_head", c_long),
        ("distance_keys", c_void_p),
        ("distance_queries", c_void_p),
        ("distance_stride", c_long),
        ("distance_center", c_long),
    )


# By their names in C.
STRUCTURES: dict[str, type[Structure]] = {
    "quantizer": QuantizerStruct,
    "weight": WeightStruct,
    "attention": AttentionStruct,
    "norm": NormStruct,
    "layer": LayerStruct,
    "encoder": EncoderStruct,
    "table": TableStruct,
    "embedding": EmbeddingStruct,
    "score_terms": ScoreTermsStruct,
}


def address(array: Array) -> c_void_p:
    """Where the values of an array lie, which must live as long as a structure that has it."""
    return c_void_p(array.ctypes.data)
