"""The command `sparsekit latency-table`, and what reads its tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparsekit.benchmark import latency
from sparsekit.cli.app import app
from sparsekit.pipeline.shaping import with_measured_latency
from sparsekit.runs.folder import RunFolder
from sparsekit.shape.latency import LatencyTable
from sparsekit.system import cores

FAST = ["--rounds=1", "--repetitions=2", "--seconds=0", "--threads=1", "--sequence=16"]


def command(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, result.output


@pytest.mark.slow
def test_a_table_is_measured_and_a_model_shrunk_to_it(teacher_folder: str, tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    words = ["--runtime", "sparse", "--sparsity", "0", "--sparsity", "0.8", *FAST]
    code, text = command("latency-table", teacher_folder, *words, "-o", str(file))
    assert code == 0, text
    table = LatencyTable.load(file)
    assert table.model == {"layers": 2, "heads": 2, "neurons": 64, "hidden": 32}
    for costs in table.costs.values():
        assert list(costs.heads) == [0, 1, 2]
        assert list(costs.neurons)[:2] == [0, 8] and list(costs.neurons)[-1] == 64
        assert sorted(costs.neurons.values()) == list(costs.neurons.values())
    costs = table.at(0)
    whole = costs.predict([2, 2], [64, 64])
    # One layer has to keep a head. So small a model is barely slower than that.
    fastest = min(costs.predict([1, 0], [0, 0]), costs.predict([0, 1], [0, 0]))
    limits = [fastest + share * (whole - fastest) for share in (0.9, 0.5)]
    targets = [f"{limit * 1e6 + 0.001:.3f}us" for limit in limits]
    words = [word for target in targets for word in ("--max-latency", target)]
    output = tmp_path / "small"
    words += ["--latency-table", str(file), "-o", str(output)]
    code, text = command("shrink", teacher_folder, *words)
    assert code == 0, text
    for target in targets:
        after = json.loads(Path(f"{output}-{target}", "shrinking.json").read_text())["after"]
        limit = float(target.removesuffix("us")) / 1e6
        assert costs.predict(after["heads"], after["neurons"]) <= limit * (1 + 1e-9)
        # Removing all that may go would be within every limit.
        assert after["neurons"] != [0, 0]
    code, text = command(
        "shrink", teacher_folder, "--max-latency", "1us", "--latency-table", str(file)
    )
    assert code == 1
    assert "a latency of 0.001 ms is out of reach: the smallest shape takes" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--runtime", "nothing"], "there is no runtime 'nothing'"),
        (["--sequence", "4096"], "--sequence 4096 is more than the 512 positions"),
        (["--sparsity", "1.0"], "--sparsity 1 must be at least 0 and less than 1"),
        (["--rounds", "0"], "--rounds 0 must be 1 or more"),
        (["--seconds", "inf"], "--seconds inf must be at least 0, and finite"),
    ],
)
def test_bad_settings_are_named(
    teacher_folder: str, tmp_path: Path, words: list[str], message: str
) -> None:
    file = tmp_path / "table.json"
    code, text = command("latency-table", teacher_folder, *words, "-o", str(file))
    assert code == 1
    assert message in text
    assert not file.exists()


def test_a_target_needs_a_table(teacher_folder: str) -> None:
    code, text = command("shrink", teacher_folder, "--max-latency", "3ms")
    assert code == 1
    assert "--max-latency needs --latency-table FILE" in text


def seconds_of(heads: list[int], widths: list[int]) -> dict[latency.Point, float]:
    return {
        point: 5.0 + 3 * (point[0][0] + point[0][1] / 8) + point[1][0] + point[1][1] / 64
        for point in latency._points(heads, widths)
    }


def test_a_table_of_more_threads_than_cores_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shape = {"latency": {"threads": cores() + 1, "runtime": "onnxruntime"}}
    assert with_measured_latency(RunFolder(tmp_path), shape) == shape
    assert f"with {cores() + 1} threads, and this machine has {cores()} cores" in caplog.text


def test_costs_are_differences_between_models() -> None:
    costs = latency.fit_costs(seconds_of([0, 1, 2], [0, 8, 64]), layers=4)
    assert costs.base == pytest.approx(5.0)
    assert costs.heads == pytest.approx({0: 0, 1: 1, 2: 2})
    assert costs.neurons == pytest.approx({0: 0, 8: 1, 64: 8})
    assert costs.last_heads == pytest.approx({0: 0, 1: 1, 2: 2})
    assert costs.last_neurons == pytest.approx({0: 0, 8: 0.125, 64: 1})


def test_noise_of_a_size_does_not_raise_all_larger_ones() -> None:
    seconds = seconds_of([0, 1, 2, 3, 4], [0, 8])
    seconds[(2, 0), (1, 0)] += 4.5
    costs = latency.fit_costs(seconds, layers=4)
    # 0, 1, 3.5, 3, 4: the two that fall become their mean.
    assert costs.heads == pytest.approx({0: 0, 1: 1, 2: 3.25, 3: 3.25, 4: 4})
