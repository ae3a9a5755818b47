"""The server does what its OpenAPI document says, with requests that schemathesis makes up."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import given, settings
from project import GOLDEN
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from serving import HOST, get, serving

from sparsekit.serving.openapi import document

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    run = Path(shutil.copytree(GOLDEN / "old_run", tmp_path_factory.mktemp("openapi") / "reviews"))
    with serving([str(run)]) as port:
        yield port


SCHEMA = schemathesis.openapi.from_dict(document(["reviews"]))
OPERATIONS = [result.ok() for result in SCHEMA.get_all_operations()]
# The addresses below /models have the handlers of those without it.
DISTINCT = [each for each in OPERATIONS if not each.path.startswith("/models/")]


def test_the_document_is_that_of_the_server(port: int) -> None:
    assert get(port, "/openapi.json")[1] == document(["reviews"])
    assert len(OPERATIONS) == 18


@pytest.mark.parametrize("operation", DISTINCT, ids=lambda each: each.path)
def test_every_operation(port: int, operation: Any) -> None:
    for mode, examples in ((GenerationMode.POSITIVE, 3), (GenerationMode.NEGATIVE, 5)):

        @settings(max_examples=examples)
        @given(operation.as_strategy(generation_mode=mode))
        def check(case: schemathesis.Case) -> None:
            case.call_and_validate(base_url=f"http://{HOST}:{port}", checks=CHECKS)

        if mode is GenerationMode.POSITIVE or operation.body:
            check()
