"""`sparsekit doctor`: what it finds, and the fix it names."""

import json
import sys

import pytest
from compiler import needs_compiler
from hub import serve
from typer.testing import CliRunner

from sparsekit.cli import diagnosis
from sparsekit.cli.app import app
from sparsekit.system import PACKAGES

NO_SERVER = "http://127.0.0.1:9"


def sparsekit(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def hub_address(monkeypatch):
    """Sets the address that the doctor looks at, as if it came from HF_ENDPOINT."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return lambda url: monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)


def findings():
    return {row["what"]: row for row in json.loads(sparsekit("doctor", "--json").stdout)}


@needs_compiler
def test_doctor(monkeypatch, tmp_path, hub_address):
    monkeypatch.setenv("SPARSEKIT_CACHE", str(tmp_path / "cache"))
    hub_address(NO_SERVER)
    found = findings()
    assert found.keys() >= {"python", "cpu", "int8 units", "gpu", "W&B", *PACKAGES}
    assert found["runtime=sparse"]["value"].startswith("multiplies")
    assert found["sparsekit cache"]["value"].startswith(str(tmp_path / "cache"))
    assert found["Hub"]["value"].startswith(f"{NO_SERVER}, not reached")
    assert "student.checkpoint=FOLDER" in found["Hub"]["fix"]


def test_doctor_names_the_runtimes(monkeypatch, hub_address):
    hub_address(NO_SERVER)
    monkeypatch.setenv("SPARSEKIT_PEER_PYTHON", "/nowhere/python")
    found = findings()
    assert found["deepsparse"]["value"] == "not installed"
    assert "make peer-env" in found["deepsparse"]["fix"]
    assert found["openvino"]["value"] in ("installed", "not installed")


def test_doctor_reaches_a_hub(tmp_path, hub_address):
    with serve(tmp_path) as hub:
        hub_address(hub.url)
        assert findings()["Hub"] == {"what": "Hub", "value": f"{hub.url}, reachable", "fix": None}


def test_doctor_offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "offline (HF_HUB_OFFLINE)" in findings()["Hub"]["value"]


@needs_compiler
@pytest.mark.parametrize(
    ("units", "kernels"),
    [({"amx_bf16": True}, "not used here: dense ones in bf16 (AMX) are faster"), ({}, "are used")],
)
def test_doctor_tells_which_matmuls_train(monkeypatch, units, kernels):
    monkeypatch.setattr(diagnosis, "cpu_units", lambda: units)
    monkeypatch.setattr("sparsekit.kernels.sparse_linear.pays_here", lambda: True)
    assert diagnosis._kernels().value.endswith(kernels)


@pytest.mark.usefixtures("no_compiler")
def test_doctor_without_a_compiler(hub_address):
    hub_address(NO_SERVER)
    found = findings()["kernels"]
    assert "there is no C compiler 'no-such-compiler'" in found["value"]
    assert found["fix"] == "install gcc"
    found = findings()["runtime=sparse"]
    assert "there is no C compiler" in found["value"] and found["fix"] == "install gcc"


@needs_compiler
def test_doctor_in_the_light_installation(monkeypatch, hub_address):
    hub_address(NO_SERVER)
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    found = findings()
    assert found["W&B"]["value"] == "not installed"
    assert found["runtime=sparse"]["value"].startswith("multiplies")


def test_doctor_names_the_install_command(monkeypatch, hub_address):
    hub_address(NO_SERVER)
    monkeypatch.setattr(diagnosis, "versions", lambda: {"torch": "2.13.0", "onnxruntime": None})
    result = sparsekit("doctor")
    assert result.exit_code == 1
    assert "pip install onnxruntime" in result.stdout
    assert "missing: onnxruntime" in result.stderr


def test_doctor_tells_what_training_lacks_from_what_is_missing(monkeypatch, hub_address):
    hub_address(NO_SERVER)
    monkeypatch.setattr(diagnosis, "versions", lambda: {"onnxruntime": "1.32", "torch": None})
    result = sparsekit("doctor", "--json")
    assert result.exit_code == 0
    found = {row["what"]: row for row in json.loads(result.stdout)}
    assert found["torch"]["value"] == "not installed"
    assert "sparsekit[train]" in found["torch"]["fix"]
