"""The addresses of the server, and the OpenAPI document that describes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sparsekit

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
TEXTS: Schema = {"type": "array", "items": TEXT}
SCORED: Schema = {"type": "array", "items": {"type": "object"}}
INPUTS: Schema = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "raw_scores": {"type": "boolean"},
        "inputs": {
            "oneOf": [
                TEXT,
                {**TEXTS, "minItems": 1, "maxItems": 2},
                {
                    "type": "array",
                    "minItems": 1,
                    "items": {**TEXTS, "minItems": 1, "maxItems": 2},
                },
            ]
        },
    },
}
SEQUENCES: Schema = {
    "type": "object",
    "required": ["sequences"],
    "properties": {
        "sequences": {
            "oneOf": [
                TEXT,
                {
                    "type": "array",
                    "minItems": 1,
                    "items": {"oneOf": [TEXT, {**TEXTS, "minItems": 2, "maxItems": 2}]},
                },
            ]
        }
    },
}
QUESTION: Schema = {
    "type": "object",
    "required": ["question", "context"],
    "properties": {"question": TEXT, "context": TEXT},
}
EMBED: Schema = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "inputs": {"oneOf": [TEXT, {**TEXTS, "minItems": 1}]},
        "normalize": {"enum": [True]},
    },
}
RERANK: Schema = {
    "type": "object",
    "required": ["query", "texts"],
    "properties": {
        "query": TEXT,
        "texts": {**TEXTS, "minItems": 1},
        "return_text": {"type": "boolean"},
        "raw_scores": {"type": "boolean"},
    },
}
TENSORS: Schema = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": TEXT,
        "inputs": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "shape", "datatype", "data"],
                "properties": {
                    "name": {"enum": ["text", "text_pair"]},
                    "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}},
                    "datatype": {"enum": ["BYTES"]},
                    "data": {**TEXTS, "minItems": 1},
                },
            },
        },
    },
}
ERROR: Schema = {
    "type": "object",
    "required": ["error", "error_type"],
    "properties": {"error": TEXT, "error_type": TEXT},
}
PREDICT: Schema = {"anyOf": [INPUTS, SEQUENCES, QUESTION]}
INFER: Schema = {"anyOf": [TENSORS, SEQUENCES, QUESTION]}
VECTORS: Schema = {"type": "array", "items": {"type": "array"}}
UNKNOWN = {"404": "There is no such model"}
FAILED = {"503": "A model has failed: restart the server"}
REFUSALS = UNKNOWN | {
    "400": "The body is not JSON in UTF-8",
    "413": "A text, their number or the body is too large",
    "422": "The body has another form, or the model does not read such texts",
    "503": "Too many texts wait; send the request again after Retry-After seconds",
}


@dataclass(frozen=True, kw_only=True)
class Address:
    """What the server answers at one address.

    handler: the name of what answers, in `routes.Endpoints`.
    body: the schema of the request's body; None where it has none.
    answer, media: the schema and the media type of the answer.
    refusals: the statuses of errors, and what they mean.
    """

    path: str
    handler: str
    summary: str
    body: Schema | None = None
    answer: Schema = field(default_factory=lambda: {"type": "object"})
    media: str = "application/json"
    refusals: Mapping[str, str] = field(default_factory=dict)

    @property
    def method(self) -> str:
        return "GET" if self.body is None else "POST"


def _addresses() -> Iterator[Address]:
    """Every address, those of the first model before those of one that is named."""
    for start, unknown in (("", {}), ("/models/{model}", UNKNOWN)):
        for name, summary, body, answer in (
            ("predict", "Answers, of either dialect", PREDICT, {}),
            ("embed", "A vector for each text", EMBED, VECTORS),
            ("rerank", "Texts by their relevance to a query", RERANK, SCORED),
        ):
            yield Address(
                path=f"{start}/{name}",
                handler=name,
                summary=summary,
                body=body,
                answer=answer,
                refusals=REFUSALS,
            )
        yield Address(
            path=f"{start}/info", handler="info", summary="The model and limits", refusals=unknown
        )
    for path in ("/health", "/ready", "/v2/health/live", "/v2/health/ready"):
        yield Address(
            path=path, handler="health", summary="Whether every model answers", refusals=FAILED
        )
    yield Address(
        path="/metrics",
        handler="metrics",
        summary="Measurements for Prometheus",
        answer=TEXT,
        media="text/plain",
    )
    yield Address(path="/openapi.json", handler="openapi", summary="This document")
    yield Address(path="/v2", handler="server", summary="The server's name and version")
    model = "/v2/models/{model}"
    yield Address(path=model, handler="metadata", summary="The inputs", refusals=UNKNOWN)
    yield Address(
        path=f"{model}/ready",
        handler="model_ready",
        summary="Whether the model answers",
        refusals=UNKNOWN | FAILED,
    )
    yield Address(
        path=f"{model}/infer",
        handler="infer",
        summary="Answers as tensors",
        body=INFER,
        answer={},
        refusals=REFUSALS,
    )


ADDRESSES = tuple(_addresses())


def document(models: Sequence[str]) -> Schema:
    """The description of every address, for a server of these models."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "sparsekit", "version": sparsekit.__version__},
        "paths": {each.path: {each.method.lower(): _operation(each, models)} for each in ADDRESSES},
    }


def _operation(address: Address, models: Sequence[str]) -> Schema:
    answer = _response("The answer", address.answer, address.media)
    refusals = {status: _response(text, ERROR) for status, text in address.refusals.items()}
    operation = {
        "summary": address.summary,
        "parameters": _parameters(models if "{model}" in address.path else ()),
        "responses": {"200": answer, **refusals},
    }
    if address.body is not None:
        content = {"application/json": {"schema": address.body}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _parameters(models: Sequence[str]) -> list[Schema]:
    if not models:
        return []
    schema = {"type": "string", "enum": list(models)}
    return [{"name": "model", "in": "path", "required": True, "schema": schema}]


def _response(description: str, schema: Schema, media: str = "application/json") -> Schema:
    return {"description": description, "content": {media: {"schema": schema}}}
