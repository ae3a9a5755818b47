"""`sparsekit verify` without torch: what it finds and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from project import GOLDEN
from run_folder import restamp

from sparsekit.errors import UserError
from sparsekit.pipeline.file_checks import verify_files
from sparsekit.runs.folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    shutil.copytree(GOLDEN / "old_run", tmp_path / "run")
    return RunFolder(tmp_path / "run")


def test_an_untouched_run_passes(run: RunFolder) -> None:
    results = verify_files(run, run.summary)
    assert results.keys() == {"files", "sparsity", "logits"}
    assert results["sparsity"] == "90.01% in the weights"
    assert results["logits"].endswith("32 of 32 labels equal")


@pytest.mark.parametrize("name", ["deployment/model.onnx", "model/model.safetensors"])
def test_a_changed_file_is_named(run: RunFolder, name: str) -> None:
    file = run.path / name
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(UserError, match=rf"{file.name} .* was changed or cut short"):
        verify_files(run, run.summary)


def test_another_sparsity_is_refused(run: RunFolder) -> None:
    summary = run.summary
    summary["sparsity"]["overall"] = 0.95
    with pytest.raises(UserError, match=r"check .sparsity. failed: it is 0\.900.* says 0\.95"):
        verify_files(run, summary)


def test_another_tokenizer_is_refused(run: RunFolder) -> None:
    file = run.deployment / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": 8}))
    restamp(run.deployment)
    with pytest.raises(UserError, match="check 'copies' failed"):
        verify_files(run, run.summary)


def test_logits_of_another_model_are_refused(run: RunFolder) -> None:
    file = run.evaluation("validation")
    table = pq.read_table(file)
    logits = np.array(table.column("logits").to_pylist(), dtype=np.float32)[:, ::-1]
    index = table.schema.get_field_index("logits")
    field = table.schema.field(index)
    pq.write_table(table.set_column(index, field, pa.array(logits.tolist(), field.type)), file)
    restamp(run.path)
    with pytest.raises(UserError, match="check 'logits' failed"):
        verify_files(run, run.summary)


def test_a_run_that_failed_before_its_evaluation_is_refused(run: RunFolder) -> None:
    summary = run.summary | {"status": "failed", "error": "out of memory", "metrics": {}}
    with pytest.raises(UserError, match=r"failed before its model was evaluated.*out of memory"):
        verify_files(run, summary)
