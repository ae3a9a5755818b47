"""The Open Inference Protocol, version 2: texts in, and each value of the answers as a tensor."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sparsekit
from sparsekit.runtime.tasks.base import Answer
from sparsekit.serving.bodies import shown, text_of, texts_of
from sparsekit.serving.models import ServedModel
from sparsekit.serving.refusals import Refusal

Body = dict[str, Any]
INPUTS = ("text", "text_pair")


def server() -> Body:
    """The server's name and version."""
    return {"name": "sparsekit", "version": sparsekit.__version__, "extensions": []}


def metadata(model: ServedModel) -> Body:
    """The model's inputs, and its outputs, which are the values of its answers."""
    outputs = [_output(name, [model.example]) for name in model.example]
    names = INPUTS if model.deployment.task.pairs else INPUTS[:1]
    return {
        "name": model.name,
        "versions": ["1"],
        "platform": f"sparsekit_{model.deployment.runtime.name}",
        "inputs": [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in names],
        "outputs": [
            {"name": each["name"], "datatype": each["datatype"], "shape": [-1, *each["shape"][1:]]}
            for each in outputs
        ],
    }


async def infer(model: ServedModel, body: Body) -> Body:
    """The answers to the tensors `text` and, for pairs, `text_pair`, each BYTES [texts]."""
    inputs = body.get("inputs")
    if not isinstance(inputs, list) or not all(isinstance(each, dict) for each in inputs):
        raise Refusal(422, f"inputs must be a list of tensors, not {shown(inputs)}")
    named = [_tensor(each, f"inputs[{i}]") for i, each in enumerate(inputs)]
    tensors = dict(named)
    if len(tensors) < len(named):
        raise Refusal(422, f"inputs are {', '.join(name for name, _ in named)}; send each once")
    if "text" not in tensors or not tensors.keys() <= set(INPUTS):
        raise Refusal(
            422, f"inputs are {', '.join(tensors) or 'none'}; send text, or text and text_pair"
        )
    texts = tensors["text"]
    pairs: Sequence[str | None] = tensors.get("text_pair", [None] * len(texts))
    if len(pairs) != len(texts):
        raise Refusal(422, f"text has {len(texts)} texts, text_pair {len(pairs)}; send as many")
    request = {"id": text_of(body["id"], "id")} if body.get("id") is not None else {}
    answers = await model.answers(list(zip(texts, pairs, strict=True)))
    outputs = [_output(name, answers) for name in answers[0]]
    return {"model_name": model.name, "model_version": "1", **request, "outputs": outputs}


def _tensor(value: Body, where: str) -> tuple[str, list[str]]:
    """The name and texts of an input."""
    name = text_of(value.get("name"), f"{where}.name")
    if value.get("datatype") != "BYTES":
        raise Refusal(422, f"{where}.datatype must be BYTES, not {shown(value.get('datatype'))}")
    data = texts_of(value.get("data"), f"{where}.data")
    shape = value.get("shape")
    # As JSON, in which true is not 1.
    if json.dumps(shape) not in (f"[{len(data)}]", f"[{len(data)}, 1]"):
        raise Refusal(422, f"{where}.shape must be [{len(data)}], as data is, not {shown(shape)}")
    return name, data


def _output(name: str, answers: Sequence[Answer]) -> Body:
    """A value of all answers: numbers and vectors FP32, texts BYTES, other objects as JSON text."""
    values = [answer[name] for answer in answers]
    shape, kind = [len(values)], "BYTES"
    if all(isinstance(value, int) for value in values):
        kind = "INT64"
    elif all(isinstance(value, float) for value in values):
        kind = "FP32"
    elif all(isinstance(v, list) and v and isinstance(v[0], float) for v in values):
        kind, shape = "FP32", [len(values), len(values[0])]
        values = [number for value in values for number in value]
    else:
        values = [v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values]
    return {"name": name, "shape": shape, "datatype": kind, "data": values}
