"""An exported file beside what was recorded of the trained model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from sparsekit.onnx.export import ExportConfig
from sparsekit.runtime.answers import predict_outputs
from sparsekit.runtime.encoder import TextEncoder
from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.runtime.tasks.file import read_task

# A row is 1/64 of the tiny validation split, far more than the default limit.
LOOSE = ExportConfig(max_metric_drop=0.1)


def logits_and_recorded(run: Path, batch: int) -> tuple[np.ndarray, np.ndarray]:
    encoder = TextEncoder(run / "deployment")
    rows = pq.read_table(run / "evaluation" / "validation.parquet").to_pydict()
    runtime = OnnxRuntime(run / "deployment" / "model.onnx", threads=1)
    encodings = encoder.encode(rows["text"], rows["text_pair"])
    answers = read_task(run / "deployment")
    outputs = predict_outputs(runtime, answers, encoder, encodings, batch)
    return np.asarray(outputs["logits"]), np.array(rows["logits"])
