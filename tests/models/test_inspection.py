"""Inspection of weight files: counted by hand on weights that are written here."""

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from sparsekit.errors import UserError
from sparsekit.models.inspection import inspect, nm_pattern, table
from sparsekit.runs.report import show

QUERY = "bert.encoder.layer.2.attention.self.query"
OUTPUT = "bert.encoder.layer.10.output.dense"
WORDS = "bert.embeddings.word_embeddings"


def weights():
    query = np.ones((4, 8), dtype=np.float32)
    query[:, ::2] = 0.0  # 2 of each 4
    output = np.ones((2, 8), dtype=np.float32)
    output[0] = 0.0
    return {
        f"{OUTPUT}.weight": output,
        f"{OUTPUT}.bias": np.zeros(2, dtype=np.float32),
        f"{QUERY}.weight": query,
        f"{WORDS}.weight": np.ones((5, 8), dtype=np.float32),
        "bert.encoder.layer.2.LayerNorm.weight": np.zeros(8, dtype=np.float32),
        "classifier.weight": np.ones((2, 8), dtype=np.float32),
    }


def save(folder, arrays):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    save_file(arrays, folder / "model.safetensors")
    return folder


def by_name(inspection):
    return {layer.name: layer for layer in inspection.layers}


def test_attention_on_integers(tmp_path):
    scale = np.array(0.1, dtype=np.float32)
    kinds = ("query", "key", "probabilities", "value")
    whole = {f"{QUERY.removesuffix('.query')}.{kind}_quantizer.scale": scale for kind in kinds}
    half = {f"bert.encoder.layer.3.attention.self.{kinds[0]}_quantizer.scale": scale}
    found = inspect(str(save(tmp_path, weights() | whole | half)))
    assert found.attention == found.as_dict()["attention"] == [QUERY.removesuffix(".query")]
    console = Console(record=True, width=200)
    console.print(table(found))
    assert "matmuls in int8 in 1 layers" in " ".join(console.export_text().split())
    assert inspect(str(save(tmp_path / "plain", weights()))).attention == []


def test_counts_and_patterns(tmp_path):
    found = inspect(str(save(tmp_path, weights())))
    assert [layer.name for layer in found.layers] == [WORDS, QUERY, OUTPUT, "classifier"]
    layers = by_name(found)
    assert layers[QUERY].shape == (4, 8)
    assert (layers[QUERY].sparsity, layers[QUERY].pattern) == (0.5, "2:4")
    assert (layers[OUTPUT].sparsity, layers[OUTPUT].pattern) == (0.5, None)
    assert layers[WORDS].sparsity == 0.0
    assert {name for name, layer in layers.items() if layer.prunable} == {QUERY, OUTPUT}
    assert found.sparsity == (16 + 8) / (32 + 16)
    assert found.bytes == (tmp_path / "model.safetensors").stat().st_size
    assert {layer.weights for layer in found.layers} == {"float32"}


def test_quantizers_are_read_from_the_keys(tmp_path):
    scale = np.ones((), dtype=np.float32)
    quantizers = {
        f"{QUERY}.weight_quantizer.scale": scale,
        f"{QUERY}.input_quantizer.scale": scale,
        f"{OUTPUT}.weight_quantizer.scale": np.ones(2, dtype=np.float32),
        f"{WORDS}.weight_quantizer.scale": scale,
        f"{WORDS}.output_quantizer.scale": scale,
    }
    found = inspect(str(save(tmp_path, weights() | quantizers)))
    seen = {layer.name: (layer.weights, layer.activations) for layer in found.layers}
    assert seen == {
        QUERY: ("int8", "uint8"),
        OUTPUT: ("int8 per channel", None),
        WORDS: ("int8", "uint8"),
        "classifier": ("float32", None),
    }
    assert found.as_dict()["quantized"] == 3


def test_bin_and_run_folder(tmp_path):
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    state = {name: torch.from_numpy(array) for name, array in weights().items()}
    state["classifier.weight"] = state["classifier.weight"].bfloat16()
    torch.save(state, model / "pytorch_model.bin")
    found = inspect(str(tmp_path / "run"))
    assert found.folder == model
    assert found.sparsity == 0.5
    assert by_name(found)[QUERY].pattern == "2:4"


def test_bfloat16(tmp_path):
    arrays = {name: array.astype(ml_dtypes.bfloat16) for name, array in weights().items()}
    found = inspect(str(save(tmp_path, arrays)))
    assert found.sparsity == 0.5
    assert by_name(found)[QUERY].weights == "bfloat16"


def test_types_that_numpy_lacks(tmp_path):
    state = {f"{QUERY}.weight": torch.tensor([[0.0, 1.0]]).to(torch.float8_e4m3fn)}
    (tmp_path / "config.json").write_text("{}")
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert inspect(str(tmp_path)).sparsity == 0.5
    save_torch_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=rf"safetensors: {QUERY}\.weight is of type F8_E4M3, which"):
        inspect(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"state_dict": {"a.weight": torch.ones(2, 2)}, "epoch": 3}, "state_dict is a dict"),
        ([torch.ones(2)], "it is a list"),
    ],
)
def test_a_file_that_is_no_state_dict(tmp_path, content, what):
    (tmp_path / "config.json").write_text("{}")
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=rf"pytorch_model.bin is no state dict: {what}; save model"):
        inspect(str(tmp_path))


@pytest.mark.parametrize(
    ("row", "pattern"),
    [
        ([0, 0, 0, 1, 2, 0, 0, 0], "1:4"),
        ([0, 0, 3, 1, 2, 0, 0, 0], "2:4"),
        ([0, 2, 3, 1, 2, 0, 0, 0], "3:4"),
        ([1, 2, 3, 1, 0, 0, 0, 0], None),
        ([0, 0, 0, 0, 0, 0, 0, 0], "1:4"),
        ([0, 0, 0, 1, 2, 0], None),
    ],
)
def test_pattern(row, pattern):
    assert nm_pattern(np.array([row], dtype=np.float32)) == pattern


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated_weights_are_named(tmp_path, name, share):
    save(tmp_path, weights())
    if name.endswith(".bin"):
        (tmp_path / "model.safetensors").unlink()
        torch.save(
            {key: torch.from_numpy(array) for key, array in weights().items()}, tmp_path / name
        )
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=rf"cannot read the weights .*{name}.*cut short"):
        inspect(str(tmp_path))


def test_missing_weights_and_folders(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="holds no weights"):
        inspect(str(tmp_path))
    with pytest.raises(UserError, match="no checkpoint folder"):
        inspect(str(tmp_path / "nowhere"))


def test_table_shows_every_layer(tmp_path):
    console = Console(record=True, width=160)
    console.print(table(inspect(str(save(tmp_path, weights())))))
    text = console.export_text()
    assert all(name in text for name in (QUERY, OUTPUT, WORDS, "classifier"))
    assert "2:4" in text
    assert "sparsity 50.00%" in text


def test_a_narrow_table_breaks_names_before_dots(tmp_path):
    console = Console(record=True, width=70)
    console.print(table(inspect(str(save(tmp_path, weights())))))
    lines = [line for line in console.export_text().splitlines() if "│" in line]
    cells = [line.split("│")[1].strip() for line in lines]
    assert any(cell.startswith(".") for cell in cells)
    assert QUERY + " *" in "".join(cells)


def test_a_pipe_gets_whole_names(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    show(table(inspect(str(save(tmp_path, weights())))))
    assert any(QUERY in line and "2:4" in line for line in capsys.readouterr().out.splitlines())


def test_safetensors_need_no_torch(tmp_path):
    save(tmp_path, weights())
    code = (
        f"import sys; from sparsekit.models.inspection import inspect; inspect({str(tmp_path)!r});"
    )
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
