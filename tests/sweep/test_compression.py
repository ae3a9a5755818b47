"""The search of `sparsekit compress`, with runs that only write their summaries."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from hydra.core.override_parser.overrides_parser import OverridesParser
from typer.testing import CliRunner

from sparsekit.cli import compress as command
from sparsekit.cli import compress_report as report
from sparsekit.cli.app import app
from sparsekit.compare.conclusion import Conclusion
from sparsekit.compare.write import write_comparison
from sparsekit.errors import UserError
from sparsekit.runs.folder import RunFolder
from sparsekit.sweep import compression
from sparsekit.sweep.candidates import CANDIDATES, Structures, Zeros
from sparsekit.sweep.compression import Search, Trial, closest, search

ASKED = Search(model="dense", data="train.csv", validation="v.csv", max_drop=1.0)


def ended(
    folder: Path, lower: float, *, passed: bool, latency: float = 2.0, metric: str = "accuracy"
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tested = {"difference": lower + 0.01, "lower": lower, "upper": lower + 0.02, "max_drop": 0.01}
    summary = {
        "status": "completed" if passed else "failed",
        "error": None if passed else "the gate stopped the deployment",
        "gate": {"passed": passed, "alpha": 0.01, "metrics": {metric: tested}},
    }
    if passed:
        summary["runtime"] = {"onnxruntime": {"latency_ms_p50": latency}}
    (folder / "summary.json").write_text(json.dumps(summary))


class Trainer:
    """Trains nothing; a trial passes up to a sparsity, and denser ones answer more slowly."""

    def __init__(self, up_to: float) -> None:
        self.up_to = up_to
        self.trials: list[float] = []

    def __call__(self, words: Sequence[str], run: RunFolder) -> None:
        given = dict(word.split("=", 1) for word in words if "=" in word)
        sparsity = float(given.get("recipe.final_sparsity", 0))
        self.trials.append(sparsity)
        assert given["hydra.run.dir"] == str(run)
        ended(run.path, -sparsity / 10, passed=sparsity <= self.up_to, latency=4 - 2 * sparsity)


def test_the_sparsest_that_passes_ends_the_search(tmp_path: Path) -> None:
    train = Trainer(0.8)
    found = list(search(ASKED, tmp_path / "s", train))
    assert train.trials == [0.9, 0.8]
    assert [trial.passed for trial in found] == [False, True]
    assert closest(found, None) == found[1]
    assert found[1].difference == pytest.approx(-0.07) and found[1].lower == pytest.approx(-0.08)
    # Called again, nothing is trained again.
    assert list(search(ASKED, tmp_path / "s", train)) == found
    assert train.trials == [0.9, 0.8]


def test_of_several_metrics_the_one_that_failed_is_shown(tmp_path: Path) -> None:
    folder = tmp_path / "weights-0.9"
    ended(folder, -0.05, passed=False)
    summary = json.loads((folder / "summary.json").read_text())
    test = {"difference": -0.001, "lower": -0.005, "upper": 0.003, "max_drop": 0.01}
    worse = {**test, "difference": -0.04, "lower": -0.06, "upper": -0.02}
    for failing, shown in (("macro_f1", "macro_f1"), (None, "accuracy")):
        summary["gate"]["metrics"] = {
            "accuracy": {**test, "passed": True},
            "macro_f1": {**(worse if failing else test), "passed": not failing},
        }
        summary["gate"]["passed"] = not failing
        (folder / "summary.json").write_text(json.dumps(summary))
        trial = Trial.of("90 % of the weights", RunFolder(folder))
        assert trial.metric == shown
        assert trial.lower == (-0.06 if failing else -0.005)


def test_a_trial_that_broke_off_is_resumed(tmp_path: Path) -> None:
    def broken(words: Sequence[str], run: RunFolder) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(search(ASKED, tmp_path / "s", broken))
    train = Trainer(0.9)
    assert len(list(search(ASKED, tmp_path / "s", train))) == 1
    assert train.trials == [0.9]
    # A run that failed before its gate is tried again, one whose gate failed is not.
    (tmp_path / "s" / "sparsity-0.9" / "summary.json").write_text(
        json.dumps({"status": "failed", "error": "no space"})
    )
    [trial] = search(ASKED, tmp_path / "s", lambda words, run: None)
    assert not trial.ended and trial.stopped == "no space"


def test_without_a_fitting_trial_the_closest_is_named(tmp_path: Path) -> None:
    found = list(search(ASKED, tmp_path / "s", Trainer(-1)))
    assert [trial.removed for trial in found] == [each.label for each in CANDIDATES["weights"]]
    best = closest(found, None)
    assert best is not None and best.removed == "nothing" and not best.fits(None)
    assert closest([], None) is None


def test_the_latency_is_a_condition_too(tmp_path: Path) -> None:
    asked = Search(**{**vars(ASKED), "max_latency": 2.0})
    found = list(search(asked, tmp_path / "s", Trainer(0.8)))
    # 2.4 ms at 80 %; what has fewer zeros is no faster, so that nothing else is trained.
    assert [trial.removed for trial in found] == ["90% of the weights", "80% of the weights"]
    assert found[1].passed and not any(trial.fits(2.0) for trial in found)
    assert closest(found, 2.0) == found[1]


def test_all_trials_together_have_the_risk_that_was_asked_for() -> None:
    """A model that drops by `max_drop` exactly passes each gate with probability `trial_alpha`."""
    for remove in CANDIDATES:
        asked = Search(**{**vars(ASKED), "alpha": 0.1, "remove": remove})
        # As if the trials were independent, and the worst case, in which they exclude each other.
        chances = [asked.trial_alpha] * len(asked.candidates)
        assert 1 - math.prod(1 - chance for chance in chances) < 0.1
        assert sum(chances) == pytest.approx(0.1)


def test_trials_of_an_earlier_version_have_another_alpha(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = list(search(ASKED, tmp_path / "s", Trainer(0.8)))
    assert list(search(ASKED, tmp_path / "s", Trainer(0.8))) == found and not caplog.records
    file = tmp_path / "s" / "compress.json"
    settings = json.loads(file.read_text())
    with pytest.raises(UserError, match="another alpha"):
        list(search(Search(**{**vars(ASKED), "alpha": 0.1}), tmp_path / "s", Trainer(0.8)))
    assert settings.pop("alpha") == 0.05
    file.write_text(json.dumps(settings))
    assert list(search(ASKED, tmp_path / "s", Trainer(0.8))) == found
    assert "have gates of alpha 0.05 each" in caplog.text


def test_the_conclusion_says_which_trial_was_chosen_and_why(tmp_path: Path) -> None:
    found = list(search(ASKED, tmp_path / "s", Trainer(0.8)))
    shown = report.conclusion(ASKED, found)
    chosen, level = shown.sentences
    assert chosen.startswith("Chosen: 80% of the weights removed (sparsity-0.8), because it is")
    assert "accuracy drops by less than 1 point (confidence 99%)" in chosen
    assert "a difference of -7.00 (-8.00 to -6.00) points" in chosen
    assert "2.40 ms on onnxruntime" in chosen
    assert level.startswith("Each gate has alpha 0.01, which is 0.05 divided by the 5 candidates")
    assert [row[-1] for row in shown.rows] == ["did not pass", "chosen"]
    limited = Search(**{**vars(ASKED), "max_latency": 2.0})
    slow, _ = report.conclusion(limited, found).sentences
    assert "takes 2.40 ms on onnxruntime, more than the 2 ms that are allowed" in slow
    failed = list(search(ASKED, tmp_path / "t", Trainer(-1)))
    none, _ = report.conclusion(ASKED, failed).sentences
    assert none.startswith("No trial meets what was asked. The closest is nothing removed")
    assert "it is not shown that accuracy drops by less than 1 point" in none
    # It is a part of page and table.
    _, files = write_comparison([tmp_path / "s"], conclusion=shown)
    texts = {file.suffix: file.read_text() for file in files}
    for text in (texts[".html"], texts[".md"]):
        assert chosen in text and "-7.00 (-8.00 to -6.00) points" in text
    for row in shown.rows:
        assert all(f">{cell}<" in texts[".html"] for cell in row)
    write_comparison([tmp_path / "s"])
    assert "<h2>Conclusion</h2>" not in (tmp_path / "s" / "compare.html").read_text()


def test_the_budget_ends_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, now = Trainer(-1), [0.0]
    monkeypatch.setattr(compression.time, "monotonic", lambda: now[0])

    def hour(words: Sequence[str], run: RunFolder) -> None:
        train(words, run)
        now[0] += 3600

    assert len(list(search(ASKED, tmp_path / "s", hour, budget=3 * 3600))) == 3


def test_a_folder_of_another_search_is_refused(tmp_path: Path) -> None:
    list(search(ASKED, tmp_path / "s", Trainer(0.9)))
    other = Search(**{**vars(ASKED), "max_drop": 2.0})
    with pytest.raises(UserError, match="another max_drop"):
        list(search(other, tmp_path / "s", Trainer(0.9)))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(UserError, match="is not empty and holds no search"):
        list(search(ASKED, tmp_path / "mine", Trainer(0.9)))


def test_other_content_of_the_files_is_another_search(tmp_path: Path) -> None:
    data = tmp_path / "train.csv"
    data.write_text("text,label\na,0\n")
    asked = Search(**{**vars(ASKED), "data": str(data)})
    list(search(asked, tmp_path / "s", Trainer(0.9)))
    data.write_text("text,label\nb,1\n")
    with pytest.raises(UserError, match="another content of the files"):
        list(search(asked, tmp_path / "s", Trainer(0.9)))


def test_another_model_in_the_same_folder_is_another_search(tmp_path: Path) -> None:
    model = tmp_path / "dense"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    asked = Search(**{**vars(ASKED), "model": str(model)})
    found = list(search(asked, tmp_path / "s", Trainer(0.9)))
    assert list(search(asked, tmp_path / "s", Trainer(0.9))) == found
    (model / "model.safetensors").write_bytes(b"trained anew")
    with pytest.raises(UserError, match="another content of the model"):
        list(search(asked, tmp_path / "s", Trainer(0.9)))
    # A search of an earlier version did not say what its model was.
    settings = json.loads((tmp_path / "s" / "compress.json").read_text())
    del settings["content of the model"]
    (tmp_path / "s" / "compress.json").write_text(json.dumps(settings))
    assert list(search(asked, tmp_path / "s", Trainer(0.9))) == found


def test_a_file_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "train.csv").touch()
    with pytest.raises(UserError, match=r"train\.csv is a file; choose a new folder as --output"):
        list(search(ASKED, tmp_path / "train.csv", Trainer(0.9)))


def test_a_signal_ends_the_trial_too(tmp_path: Path) -> None:
    """The trial gets it once, and the search waits until it has ended."""
    trial, began = tmp_path / "sparsekit_trial.py", tmp_path / "began"
    trial.write_text(
        "import os, signal, sys, time\n"
        "def end(number, frame):\n"
        f"    open({str(tmp_path / 'signals')!r}, 'a').write(f'{{number}} ')\n"
        "    time.sleep(0.5)\n"
        f"    open({str(tmp_path / 'ended')!r}, 'w')\n"
        "    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        f"with open({str(began)!r}, 'w') as file:\n"
        "    file.write(str(os.getpid()))\n"
        "time.sleep(60)\n"
    )
    # A process that a shell starts in the background ignores SIGINT, and so do its children.
    searching = (
        "import signal, sys\nfrom sparsekit.cli import compress\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"sys.executable = {str(tmp_path / 'python')!r}\n"
        "compress._train([], None)\n"
    )
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{trial}"\n')
    python.chmod(0o755)
    process = subprocess.Popen([sys.executable, "-c", searching], start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not began.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert began.exists(), process.poll()
        # To the whole group, as a terminal does.
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) != 0
    finally:
        process.kill()
        process.wait()
        # The trial has a session of its own.
        if began.exists() and not (tmp_path / "ended").exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(began.read_text()), signal.SIGKILL)
    assert (tmp_path / "ended").exists()
    assert (tmp_path / "signals").read_text() == f"{int(signal.SIGTERM)} "


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV"])
def test_a_trial_that_a_signal_kills_is_named(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    number = int(signal.Signals[name])
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nkill -{number} $$\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(command, "handle_signals", lambda: None)
    with pytest.raises(typer.Exit) as ended:
        command._train([], RunFolder(tmp_path / "trial"))
    assert ended.value.exit_code == 128 + number
    said = capsys.readouterr().err
    assert said.startswith(f"the trial in {tmp_path / 'trial'} was ended by {name}")
    assert ("memory" in said) == (name == "SIGKILL")


def test_a_mistake_that_is_found_before_training_is_corrected(tmp_path: Path) -> None:
    def refused(words: Sequence[str], run: RunFolder) -> None:
        folder = tmp_path / "s" / "sparsity-0.9"
        folder.mkdir(exist_ok=True)
        (folder / "summary.json").write_text(json.dumps({"status": "failed", "error": "a typo"}))

    list(search(ASKED, tmp_path / "s", refused))
    corrected = Search(**{**vars(ASKED), "epochs": 10})
    assert len(list(search(corrected, tmp_path / "s", Trainer(0.9)))) == 1
    with pytest.raises(UserError, match="another epochs"):
        list(search(ASKED, tmp_path / "s", Trainer(0.9)))


def test_short_trials_quantize_in_their_second_half(tmp_path: Path) -> None:
    words = Search(**{**vars(ASKED), "epochs": 1}).words(Zeros(0.9), tmp_path)
    assert "recipe.qat_epochs=0.5" in words
    assert not any("qat_epochs" in word for word in ASKED.words(Zeros(0.9), tmp_path))


def test_a_trial_is_told_all_that_was_asked(tmp_path: Path) -> None:
    own = ["runtime=sparse", "recipe.init_lr=2e-4"]
    asked = Search(**{**vars(ASKED), "max_drop": 0.5, "epochs": 12.0, "overrides": own})
    assert asked.words(Zeros(0.9), tmp_path / "t") == [
        "dataset=files",
        "dataset.data_files.train=train.csv",
        "dataset.data_files.validation=v.csv",
        "student.checkpoint=dense",
        "teacher=self",
        "recipe=from_dense",
        "recipe.num_epochs=12",
        "recipe.final_sparsity=0.9",
        "export.gate.max_drop=0.5",
        "export.gate.alpha=0.01",
        "tracking=none",
        # After those that a user may want otherwise, before those that make it a trial.
        *own,
        f"hydra.run.dir={tmp_path / 't'}",
        "training.resume_from_checkpoint=auto",
    ]


def test_int8_alone_prunes_nothing(tmp_path: Path) -> None:
    alone = ASKED.words(Zeros(0.0), tmp_path)
    assert "recipe.final_sparsity=0" in alone and not any("obs" in word for word in alone)
    assert "recipe.final_sparsity=0.9" in ASKED.words(Zeros(0.9), tmp_path)


def test_paths_reach_a_trial_as_they_are(tmp_path: Path) -> None:
    paths = {"model": "/m/a,b", "data": "/d/a,b.csv", "validation": "/d/a=b (1).csv"}
    asked = Search(**{**vars(ASKED), **paths})
    parser, folder = OverridesParser.create(), tmp_path / "x,y"
    read = {
        each.key_or_group: None if each.is_sweep_override() else each.value()
        for each in map(parser.parse_override, asked.words(Zeros(0.9), folder))
    }
    assert read["student.checkpoint"] == paths["model"]
    assert read["dataset.data_files.train"] == paths["data"]
    assert read["dataset.data_files.validation"] == paths["validation"]
    assert read["hydra.run.dir"] == str(folder)


class Shaper:
    """Trains nothing; a trial passes up to a share of heads, and larger ones answer more slowly."""

    def __init__(self, up_to: float) -> None:
        self.up_to = up_to
        self.trials: list[float] = []

    def __call__(self, words: Sequence[str], run: RunFolder) -> None:
        given = dict(word.split("=", 1) for word in words if "=" in word)
        assert given["recipe.final_sparsity"] == "0"
        heads = float(given.get("student.shrink.heads", 0))
        self.trials.append(heads)
        assert given["hydra.run.dir"] == str(run)
        ended(run.path, -heads / 10, passed=heads <= self.up_to, latency=4 - 4 * heads)


def test_structures_are_removed_instead(tmp_path: Path) -> None:
    asked = Search(**{**vars(ASKED), "remove": "structures"})
    train = Shaper(0.5)
    found = list(search(asked, tmp_path / "s", train))
    assert train.trials == [0.66, 0.5]
    assert found[1].removed == "50% of the heads, 75% of the neurons"
    assert found[1].fits(None) and found[1].latency == 2.0
    assert list(search(asked, tmp_path / "s", train)) == found and len(train.trials) == 2
    words = asked.words(Structures(0.5, 0.75), tmp_path)
    assert "student.shrink.method=obs" in words and "recipe.final_sparsity=0" in words
    with pytest.raises(UserError, match="another remove"):
        list(search(ASKED, tmp_path / "s", train))


def test_a_search_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    """Its settings do not say what it removes: weights."""
    found = list(search(ASKED, tmp_path / "s", Trainer(0.8)))
    file = tmp_path / "s" / "compress.json"
    settings = json.loads(file.read_text())
    del settings["remove"]
    file.write_text(json.dumps(settings))
    assert list(search(ASKED, tmp_path / "s", Trainer(0.8))) == found


def test_the_command(
    tmp_path: Path, teacher_folder: str, monkeypatch: pytest.MonkeyPatch, csv_files: dict[str, str]
) -> None:
    rows = ["--data", csv_files["train"], "--validation", csv_files["validation"]]
    words = ["compress", teacher_folder, *rows, "--max-drop", "1", "-o", str(tmp_path / "s")]
    for wrong, message in (
        (["--budget", "soon"], "such as 90m"),
        (["--data", "nowhere.csv"], "there is no file nowhere.csv"),
        (["--max-drop", "-1"], "max_drop is -1.0, it must be above 0"),
        (["--alpha", "0.5"], "alpha is 0.5, it must lie between 0 and 0.5"),
        (["--epochs", "0"], "--epochs 0 must be more than 0"),
        (["--max-latency", "0"], "--max-latency: '0' is not a duration above 0, such as 3ms"),
        (["--max-latency", "fast"], "--max-latency: 'fast' is not a duration above 0"),
    ):
        refused = CliRunner().invoke(app, [*words, *wrong])
        assert refused.exit_code == 1 and message in refused.output
    quantized = shutil.copytree(teacher_folder, tmp_path / "quantized")
    (quantized / "quantizers.safetensors").touch()
    refused = CliRunner().invoke(app, ["compress", str(quantized), *words[2:]])
    assert refused.exit_code == 1 and "is quantized already; give the dense model" in refused.output
    monkeypatch.setattr(command, "_train", Trainer(0.8))
    monkeypatch.setattr("sparsekit.compare.write.write_comparison", comparison)
    passed = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert passed.exit_code == 0, passed.output
    assert f"deployment: {tmp_path / 's' / 'sparsity-0.8' / 'deployment'}" in passed.output
    assert "did not pass" in passed.output or "gate stopped" in passed.output
    too_slow = [*words[:-1], str(tmp_path / "u"), "--max-latency", "1ms"]
    slow = CliRunner().invoke(app, too_slow)
    assert slow.exit_code == 1 and "onnxruntime multiplies zeros too: add --remove" in slow.output
    assert "--budget" not in slow.output
    # Without its unit it is the same search, which goes on.
    assert CliRunner().invoke(app, [*too_slow[:-1], "1"]).output == slow.output
    short = [*words[:-1], str(tmp_path / "w"), "--budget", "0s"]
    ended_early = CliRunner().invoke(app, short)
    assert ended_early.exit_code == 1
    assert "--budget ended the search after 0 of 5 trials; called again" in ended_early.output
    monkeypatch.setattr(command, "_train", Shaper(0.5))
    smaller = [*words[:-1], str(tmp_path / "v"), "--remove", "structures"]
    passed = CliRunner().invoke(app, smaller)
    assert f"{tmp_path / 'v' / 'heads-0.5-neurons-0.75' / 'deployment'}" in passed.output
    monkeypatch.setattr(command, "_train", Trainer(-1))
    failed = CliRunner().invoke(app, [*words[:-1], str(tmp_path / "t")])
    assert failed.exit_code == 1 and "the closest is" in failed.output


def test_differences_have_the_unit_of_their_metric(tmp_path: Path) -> None:
    """Points of shares, and a loss in its own unit, as `sparsekit gate` shows them."""
    shown = {}
    for metric in ("accuracy", "mse"):
        folder = tmp_path / metric
        ended(folder, -0.03, passed=False, metric=metric)
        trial = compression.Trial.of("80 %", RunFolder(folder))
        assert trial.metric == metric
        table = report.table([trial])
        shown[metric] = [next(iter(column.cells)) for column in table.columns]
    assert shown["accuracy"][1:3] == ["3 points", "-2 points"]
    assert shown["mse"][1:3] == ["0.03", "+0.02"]


def comparison(folders: Sequence[Path], conclusion: Conclusion) -> tuple[Any, list[str]]:
    assert conclusion.rows
    return None, [f"{folders[0]}/compare.html"]


def test_a_checkpoint_without_a_head_is_refused(student_folder: str) -> None:
    words = ["compress", student_folder, "--data", __file__, "--max-drop", "1"]
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 1 and "not fine-tuned for a task" in refused.output
