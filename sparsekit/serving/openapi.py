"""The OpenAPI document of the server."""

from __future__ import annotations

from collections.abc import Sequence
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
        }
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
REFUSALS = {
    "400": "The body is not JSON in UTF-8",
    "404": "There is no such model",
    "413": "A text, their number or the body is too large",
    "422": "The body has another form, or the model does not read such texts",
    "503": "Too many texts wait; send the request again after Retry-After seconds",
}


def document(models: Sequence[str]) -> Schema:
    """The description of every address, for a server of these models."""
    posts = {
        "/predict": ("Answers, of either dialect", {"anyOf": [INPUTS, SEQUENCES, QUESTION]}, {}),
        "/embed": ("A vector for each text", EMBED, {"type": "array", "items": {"type": "array"}}),
        "/rerank": ("Texts by their relevance to a query", RERANK, SCORED),
    }
    paths = {}
    for path, (summary, body, answer) in posts.items():
        paths[path] = {"post": _post(summary, body, answer)}
        paths[f"/models/{{model}}{path}"] = {"post": _post(summary, body, answer, models)}
    infer = {"anyOf": [TENSORS, SEQUENCES, QUESTION]}
    paths["/v2/models/{model}/infer"] = {"post": _post("Answers as tensors", infer, {}, models)}
    for path in ("/info", "/health", "/ready", "/v2", "/v2/health/live", "/v2/health/ready"):
        paths[path] = {"get": _get(path)}
    for path in ("/models/{model}/info", "/v2/models/{model}", "/v2/models/{model}/ready"):
        paths[path] = {"get": _get(path, models)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "sparsekit", "version": sparsekit.__version__},
        "paths": paths,
    }


def _post(summary: str, body: Schema, answer: Schema, models: Sequence[str] = ()) -> Schema:
    return {
        "summary": summary,
        "parameters": _parameters(models),
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": _response("The answer", answer), **_refusals(REFUSALS)},
    }


def _get(path: str, models: Sequence[str] = ()) -> Schema:
    described = {"200": _response("What is asked", {"type": "object"})}
    missing = {"404": REFUSALS["404"]} if models else {}
    return {
        "summary": path.rpartition("/")[2],
        "parameters": _parameters(models),
        "responses": described | _refusals(missing),
    }


def _parameters(models: Sequence[str]) -> list[Schema]:
    if not models:
        return []
    schema = {"type": "string", "enum": list(models)}
    return [{"name": "model", "in": "path", "required": True, "schema": schema}]


def _refusals(statuses: dict[str, str]) -> Schema:
    return {status: _response(text, ERROR) for status, text in statuses.items()}


def _response(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
