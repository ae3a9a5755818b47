"""The loopback Hub, spoken to by the real clients as `launch.py` does."""

import json
import os
import subprocess
import sys
import urllib.request

import hub_seed
import pytest
from hub import serve
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

CLIENT = """
import json, sys
from pathlib import Path
from datasets import load_dataset
from huggingface_hub import snapshot_download
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

dataset_id, teacher_id, student_id = sys.argv[1:]
dataset = load_dataset(dataset_id)
teacher = AutoModelForSequenceClassification.from_pretrained(teacher_id)
student = AutoModelForMaskedLM.from_pretrained(student_id)
weights = [
    module.weight for module in student.bert.encoder.modules() if hasattr(module, "in_features")
]
print(json.dumps({
    "rows": {split: part.num_rows for split, part in dataset.items()},
    "labels": dataset["train"].features["label"].names,
    "tokens": AutoTokenizer.from_pretrained(teacher_id).tokenize("The plot is witty !"),
    "id2label": teacher.config.id2label,
    "logits": list(teacher(**AutoTokenizer.from_pretrained(teacher_id)(
        dataset["test"]["text"][:3], padding=True, return_tensors="pt")).logits.shape),
    "zeros": sum(int((weight == 0).sum()) for weight in weights),
    "weights": sum(weight.numel() for weight in weights),
    "snapshot": sorted(
        path.name for path in Path(
            snapshot_download(teacher_id, allow_patterns=["*.txt", "config.json"], cache_dir="part")
        ).iterdir()
    ),
}))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    hub_seed.write(folder)
    with serve(folder) as running, pytest.MonkeyPatch.context() as patch:
        # For the clients inside this process.
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield running


def test_real_clients_load_the_seeds_data_and_models(hub, tmp_path):
    command = [sys.executable, "-c", CLIENT]
    command += [hub_seed.DATASET, hub_seed.TEACHER, hub_seed.STUDENT]
    result = subprocess.run(
        command,
        env=os.environ | hub.environment(tmp_path / "home"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    seen = json.loads(result.stdout.splitlines()[-1])
    assert seen["rows"] == hub_seed.ROWS
    assert seen["labels"] == ["neg", "pos"]
    assert seen["tokens"] == ["the", "plot", "is", "witty", "[UNK]"]
    assert seen["id2label"] == {"0": "LABEL_0", "1": "LABEL_1"}
    assert seen["logits"] == [3, 2]
    assert seen["zeros"] / seen["weights"] == pytest.approx(0.9, abs=1e-3)
    assert seen["snapshot"] == ["config.json", "vocab.txt"]
    assert (tmp_path / "home" / "hub").is_dir()
    assert any(request.endswith("pytorch_model.bin") for request in hub.requests)


def test_twin_differs_by_one_character_and_is_a_masked_lm(hub, tmp_path):
    difference = [
        (a, b) for a, b in zip(hub_seed.TEACHER, hub_seed.MASKED_LM_TWIN, strict=True) if a != b
    ]
    assert difference == [("-", "_")]
    api = HfApi(endpoint=hub.url)
    path = api.hf_hub_download(hub_seed.MASKED_LM_TWIN, "config.json", cache_dir=tmp_path)
    with open(path) as file:
        assert json.load(file)["architectures"] == ["BertForMaskedLM"]


def test_errors_are_those_of_the_hub(hub, tmp_path):
    api = HfApi(endpoint=hub.url)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("nobody/nothing")
    with pytest.raises(RevisionNotFoundError):
        api.model_info(hub_seed.TEACHER, revision="v9")
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download(hub_seed.TEACHER, "model.safetensors", cache_dir=tmp_path)


def test_tree_and_paths(hub):
    (hub.folder / "models/org/nested/a/b").mkdir(parents=True)
    (hub.folder / "models/org/nested/a/b/deep.txt").write_text("deep")
    (hub.folder / "models/org/nested/top.txt").write_text("top")
    api = HfApi(endpoint=hub.url)
    tree = api.list_repo_tree
    assert [entry.path for entry in tree("org/nested")] == ["a", "top.txt"]
    assert [entry.path for entry in tree("org/nested", "a", recursive=True)] == [
        "a/b",
        "a/b/deep.txt",
    ]
    found = api.get_paths_info("org/nested", ["a", "a/b/deep.txt", "missing"])
    assert [entry.path for entry in found] == ["a", "a/b/deep.txt"]
    assert api.list_repo_files("org/nested") == ["a/b/deep.txt", "top.txt"]


def test_ranges_and_etag(hub):
    url = f"{hub.url}/{hub_seed.TEACHER}/resolve/main/vocab.txt"
    whole = (hub.folder / "models" / hub_seed.TEACHER / "vocab.txt").read_bytes()
    request = urllib.request.Request(url, headers={"Range": "bytes=3-9"})
    with urllib.request.urlopen(request) as response:
        assert response.status == 206
        assert response.read() == whole[3:10]
        assert response.headers["Content-Range"] == f"bytes 3-9/{len(whole)}"
        assert len(response.headers["X-Repo-Commit"]) == 40
        assert response.headers["ETag"].startswith('"')
