"""`sparsekit.export`: which run it exports, and where the deployment goes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from api_training import arguments, tokenized, trainer
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed
from typer.testing import CliRunner

from sparsekit.cli.app import app
from sparsekit.errors import UserError
from sparsekit.onnx.sums import check_sums
from sparsekit.pipeline import exporting
from sparsekit.pipeline.exporting import export
from sparsekit.runs.folder import RunFolder
from sparsekit.training.trainer import SparseTrainer


@pytest.fixture(scope="module")
def trained(student_folder: str, tmp_path_factory: pytest.TempPathFactory) -> SparseTrainer:
    """A trainer after one step, which has not saved its model."""
    return train(student_folder, tmp_path_factory.mktemp("api") / "run")


def train(student_folder: str, folder: Path, **changes: Any) -> SparseTrainer:
    set_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(student_folder, num_labels=2)
    tokenizer = AutoTokenizer.from_pretrained(student_folder)
    data = {**tokenized(tokenizer), **changes}
    made = trainer(model, tokenizer, data, folder, args=arguments(folder, max_steps=1))
    made.train()
    return made


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def exported(trained: SparseTrainer, monkeypatch: pytest.MonkeyPatch) -> SparseTrainer:
    """The trainer after an export, which further calls do not repeat: it takes seconds."""
    if not trained.run.deployment.is_dir():
        export(trained)
    monkeypatch.setattr(exporting, "export_folder", lambda run, _: (run.summary, None))
    monkeypatch.setattr(SparseTrainer, "save_model", lambda _: None)
    return trained


def test_a_trainer_to_a_new_folder(trained: SparseTrainer, tmp_path: Path) -> None:
    exported = export(trained, tmp_path / "new" / "deployment")
    file = str(tmp_path / "new" / "deployment" / "model.onnx")
    assert exported["verified"] and exported == trained.run.summary["export"] | {"path": file}
    assert files(tmp_path / "new" / "deployment") == files(trained.run.deployment)
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "deployment"]


@pytest.mark.parametrize("form", [str, Path])
@pytest.mark.parametrize("inner", [".", "checkpoints"])
def test_a_run_folder_or_the_trainers_output_dir(
    exported: SparseTrainer, form: Any, inner: str, tmp_path: Path
) -> None:
    assert exported.args.output_dir == str(exported.run.checkpoints)
    result = export(form(exported.run.path / inner), tmp_path / "deployment")
    assert result["verified"]
    assert check_sums(tmp_path / "deployment") == len(files(tmp_path / "deployment")) - 1


def test_without_output_the_deployment_stays_in_the_run(exported: SparseTrainer) -> None:
    before = sorted(exported.run.path.parent.rglob("model.onnx"))
    export(exported)
    export(exported, exported.run.deployment)
    assert before == sorted(exported.run.path.parent.rglob("model.onnx"))
    assert check_sums(exported.run.deployment)


def test_an_earlier_deployment_and_an_empty_folder_are_replaced(
    exported: SparseTrainer, tmp_path: Path
) -> None:
    target = tmp_path / "deployment"
    target.mkdir()
    export(exported, target)
    (target / "of_the_earlier_one.json").write_text("{}")
    export(exported, target)
    assert files(target) == files(exported.run.deployment)
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("kind", ["folder", "file", "parent", "link", "inside"])
def test_what_is_no_deployment_stays_as_it_is(
    exported: SparseTrainer, tmp_path: Path, kind: str
) -> None:
    export(exported)
    target = tmp_path / "mine"
    if kind == "folder":
        target.mkdir()
        (target / "model.onnx").write_text("another tool's")
    elif kind == "file":
        target.write_text("text")
    elif kind == "link":
        target.symlink_to(exported.run.deployment.parent / "model")
    elif kind == "inside":
        target = exported.run.deployment / "mine"
    else:
        target = exported.run.path
    before = sorted(target.parent.rglob("*"))
    with pytest.raises(UserError, match=r"remove it, or choose|choose another folder|is a link"):
        export(exported, target)
    assert sorted(target.parent.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_that_cannot_be_written_as_a_user(
    exported: SparseTrainer, tmp_path: Path
) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot copy the deployment to"):
        export(exported, tmp_path / "deployment")
    tmp_path.chmod(0o700)


def test_an_output_that_cannot_be_written(
    exported: SparseTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk leaves the earlier copy whole."""
    target = tmp_path / "deployment"
    export(exported, target)
    before = files(target)

    def full(source: Path, copy: Path) -> None:
        copy.mkdir()
        (copy / "model.onnx").write_bytes(b"cut")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(UserError, match=r"cannot copy the deployment to .*No space left.*it is in"):
        export(exported, target)
    assert files(target) == before
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"verifi": False}, r"export has no setting verifi; did you mean verify\?"),
        ({"form": "onnx"}, r"^form is 'onnx', it must be one of"),
        ({"check_rows": 0}, r"^check_rows is 0, .* set verify=False"),
        ({"verify": "no"}, r"^verify is 'no'; it must be true or false"),
    ],
)
def test_settings_are_named_as_arguments(
    trained: SparseTrainer, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        export(trained, **settings)


def test_what_is_no_run(trained: SparseTrainer, tmp_path: Path) -> None:
    trained.save_model()
    with pytest.raises(UserError, match="takes a SparseTrainer or a run folder, not a BertForSeq"):
        export(trained.model)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"is not a run folder: it has no summary.json$"):
        export(tmp_path)
    for inner in ("model", "checkpoints/checkpoint-1"):
        with pytest.raises(UserError, match=f"; give {trained.run}$"):
            export(trained.run.path / inner)


# Runs whose evaluation split has no text, or that have none


@pytest.mark.slow
@pytest.mark.parametrize("split", ["without text", "none"])
def test_commands_on_a_run_that_cannot_be_timed(
    student_folder: str, tmp_path: Path, split: str
) -> None:
    rows = tokenized(AutoTokenizer.from_pretrained(student_folder))["eval_dataset"]
    without = rows.remove_columns("text") if split == "without text" else None
    made = train(student_folder, tmp_path / "run", eval_dataset=without)
    made.save_model()
    with pytest.raises(UserError, match=r"verify=False"):
        export(made)
    assert not export(made, verify=False)["verified"]
    run = RunFolder(tmp_path / "run")
    assert run.ending.status == "completed"
    done = CliRunner().invoke(app, ["benchmark", str(run)])
    assert done.exit_code == 1
    assert "eval_dataset" in done.stderr and "Traceback" not in done.stderr

    compared = CliRunner().invoke(app, ["compare", str(tmp_path), "--output", str(tmp_path)])
    assert compared.exit_code == 0, compared.output
    if split == "none":
        assert "1 config, none evaluated" in compared.stdout
        assert "not ranked, because none was evaluated" in (tmp_path / "compare.md").read_text()
