"""The vectors of tokens as a second output of an embedding graph, for tools that pool them.

    last_hidden_state --> Mul --> ReduceSum --> Div --> ... --> sentence_embedding
                           ^                     ^
             attention_mask (float32) --> ReduceSum

They are computed already where the vector of a text is the mean of its tokens. A graph that takes
the first token computes the last layer for that token alone. Imports no torch.
"""

from __future__ import annotations

from pathlib import Path

import onnx

EMBEDDING, TOKENS = "sentence_embedding", "last_hidden_state"


def add_token_vectors(file: Path) -> bool:
    """Let the graph in `file` give `last_hidden_state` too, [batch, sequence, features].

    Returns whether it does; the file does not change where the vectors of texts are not means.
    """
    model = onnx.load(file)
    graph = model.graph
    hidden = _averaged(graph)
    if hidden is None:
        return False
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == hidden:
                    names[index] = TOKENS
    [embedding] = graph.output
    batch, features = embedding.type.tensor_type.shape.dim
    sizes = [batch.dim_param, "sequence", features.dim_value]
    kind = embedding.type.tensor_type.elem_type
    graph.output.append(onnx.helper.make_tensor_value_info(TOKENS, kind, sizes))
    onnx.save(model, file)
    return True


def remove_token_vectors(file: Path) -> None:
    """Let the graph in `file` give what the deployment gave that it was made of."""
    model = onnx.load(file)
    names = [value.name for value in model.graph.output]
    if names == [EMBEDDING, TOKENS]:
        del model.graph.output[1]
        onnx.save(model, file)


def _averaged(graph: onnx.GraphProto) -> str | None:
    """The tensor whose mean over tokens is the embedding before it is normalized."""
    made_by = {name: node for node in graph.node for name in node.output}

    def maker(name: str, kind: str) -> onnx.NodeProto | None:
        node = made_by.get(name)
        return node if node is not None and node.op_type == kind else None

    if [value.name for value in graph.output] != [EMBEDDING]:
        return None
    normalized = maker(EMBEDDING, "Div")
    mean = normalized and maker(normalized.input[0], "Div")
    if mean is None:
        return None
    total, count = (maker(name, "ReduceSum") for name in mean.input)
    weighted = total and maker(total.input[0], "Mul")
    if weighted is None or count is None or weighted.input[1] != count.input[0]:
        return None
    return str(weighted.input[0])
