"""`sparsekit compare`: groups, ties and fronts; the three files; the page in a real browser."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from browser import Page, browse, chromium
from made_runs import write_made_run, write_made_sweep
from rich.console import Console
from typer.testing import CliRunner

from sparsekit.cli.app import app
from sparsekit.compare.load import load
from sparsekit.compare.page import page
from sparsekit.compare.statistics import Statistic, compare, differ, find_axes, pareto
from sparsekit.compare.write import table, write_comparison
from sparsekit.errors import UserError
from sparsekit.runs.report import show
from sparsekit.sweep.jobs import Job, write_record


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 x 2 x 2 configs of 3 seeds; one summary cut in half, one failed, one killed."""
    folder = tmp_path_factory.mktemp("compare") / "2026-11-23" / "10-00-00"
    assert write_made_sweep(folder) == 24
    for number, text in (
        (24, '{"status": "comp'),
        (25, '{"status": "failed", "error": "<b>out of memory</b>\\nhere"}'),
    ):
        (folder / str(number)).mkdir()
        (folder / str(number) / "summary.json").write_text(text)
    (folder / "26" / ".hydra").mkdir(parents=True)
    return folder


def test_groups_are_configs_without_their_seed(sweep: Path) -> None:
    comparison = compare(load([sweep]))
    assert len(comparison.groups) == 8
    assert {len(group.runs) for group in comparison.groups} == {3}
    # What follows from an axis (qat_start_epoch, the modifier's hardness) is none.
    axes = ["student.sparsity", "recipe.qat_epochs", "recipe.distill_hardness"]
    assert sorted(comparison.axes) == sorted(axes)
    best = comparison.groups[0]
    values = [run.measures["validation accuracy"] for run in best.runs]
    assert best.statistics["validation accuracy"] == Statistic.of(values)
    assert comparison.metric == "validation accuracy"
    assert comparison.costs == ["onnxruntime latency ms", "size MB"]
    assert [run.status for run in comparison.others] == ["broken", "failed", "unfinished"]


def test_two_standard_errors_decide_about_ties() -> None:
    # Standard error of the difference: sqrt(0.01^2/4 + 0.01^2/4) = 0.00707; twice it 0.01414.
    first = Statistic(0.9, 0.01, 4)
    assert differ(first, Statistic(0.8858, 0.01, 4)) is True
    assert differ(first, Statistic(0.8860, 0.01, 4)) is False
    assert differ(first, Statistic(0.5, None, 1)) is None
    assert differ(Statistic(0.5, None, 1), Statistic(0.5, None, 1)) is False


def test_the_front_is_what_nothing_beats(sweep: Path) -> None:
    assert pareto([(0, 0), (0, 0), (1, -1)]) == [True, True, True]
    comparison = compare(load([sweep]))
    points = [
        (
            -g.statistics["validation accuracy"].mean,
            *(g.statistics[c].mean for c in comparison.costs),
        )
        for g in comparison.groups
    ]
    for group, point in zip(comparison.groups, points, strict=True):
        beaten = any(
            other != point and all(a <= b for a, b in zip(other, point, strict=True))
            for other in points
        )
        assert group.front == (not beaten)
    assert 0 < sum(group.front for group in comparison.groups) < 8


def test_overridden_keys_come_before_shorter_ones(tmp_path: Path) -> None:
    for number, epochs in enumerate((1, 2)):
        run = write_made_run(tmp_path / str(number), 0.5, 1.0, epochs, 0, 0.9)
        (run / ".hydra").mkdir()
        (run / ".hydra" / "overrides.yaml").write_text(f"- recipe.qat_start_epoch={6 - epochs}\n")
    runs = load([tmp_path])
    assert find_axes([[run] for run in runs]) == ["recipe.qat_start_epoch"]


def test_a_data_sets_own_seed_is_not_the_runs(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        run = write_made_run(tmp_path / str(seed), 0.5, 1.0, 0, seed, 0.9 + seed / 100)
        path = run / "config.yaml"
        config = yaml.safe_load(path.read_text())
        # One of its own, which one run's seed happens to equal, and one that follows the run's.
        config["dataset"] = {"source": {"seed": 0}, "shuffle": {"seed": seed}}
        path.write_text(yaml.safe_dump(config))
    (group,) = compare(load([tmp_path])).groups
    assert len(group.runs) == 3
    assert group.statistics["validation accuracy"].mean == pytest.approx(0.91)


def test_the_table_fits_a_narrow_terminal(tmp_path: Path) -> None:
    write_made_sweep(tmp_path)
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(table(compare(load([tmp_path]))))
    text = console.export_text()
    assert "…" not in text
    for word in ("sparsity", "hardness", "epochs", "±", "best", "ms: onnxruntime latency"):
        assert word in text


def test_a_ranking_by_latency_names_each_runtime(tmp_path: Path) -> None:
    """Of two columns of milliseconds it can be told whose they are."""
    write_made_sweep(tmp_path)
    for path in tmp_path.glob("*/summary.json"):
        summary = json.loads(path.read_text())
        usual = summary["runtime"]["onnxruntime"]
        summary["runtime"]["sparse"] = {key: value / 4 for key, value in usual.items()}
        path.write_text(json.dumps(summary))
    runs = load([tmp_path])
    headings = [str(c.header) for c in table(compare(runs, "sparse latency ms")).columns]
    assert headings[4:] == ["sparse\nms", "zeros", "ms", "MB", "rank"]
    # What it is ranked by is not shown twice.
    headings = [str(c.header) for c in table(compare(runs, "onnxruntime latency ms")).columns]
    assert headings[4:] == ["onnxruntime\nms", "zeros", "MB", "rank"]


def test_a_table_too_wide_for_the_terminal_keeps_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 2):
        run = write_made_run(tmp_path / str(seed), 0.1 * seed, 0.5 * seed, seed, 1, 0.8)
        path = run / "config.yaml"
        config = yaml.safe_load(path.read_text())
        config["training"] = {"learning_rate_multiplier": seed}
        path.write_text(yaml.safe_dump(config))
        path = run / "summary.json"
        summary = json.loads(path.read_text())
        # Where it is logged is no difference.
        summary["config"]["tracking"] = f"tracking {seed}"
        path.write_text(json.dumps(summary))
    comparison = compare(load([tmp_path]))
    monkeypatch.setenv("COLUMNS", "50")
    show(table(comparison))
    lines = capsys.readouterr().out.splitlines()
    assert sum("1.00" in line.split() for line in lines) == 2
    assert "tracking" not in comparison.axes
    assert max(map(len, lines)) > 50


def test_sweeps_of_different_metrics(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_made_run(tmp_path / "a" / str(seed), 0.5, 0.0, 0, seed, 0.8)
        write_made_run(tmp_path / "b" / str(seed), 0.8, 0.0, 0, seed, 0.7, metric="f1")
    comparison, files = write_comparison([tmp_path / "a", tmp_path / "b"], tmp_path)
    assert comparison.metric == "validation accuracy"
    first, second = (group.statistics for group in comparison.groups)
    assert "validation f1" not in first
    assert "validation accuracy" not in second
    assert comparison.groups[1].tie is None
    assert "validation f1" in files[0].read_text()
    assert compare(load([tmp_path]), "validation f1").groups[0].values == {"student.sparsity": 0.8}
    with pytest.raises(UserError, match="no run has 'bleu'; there are: validation accuracy"):
        compare(load([tmp_path]), "bleu")


def test_a_repeated_failure_is_gone_and_runs_of_other_sweeps_are_followed(tmp_path: Path) -> None:
    done = write_made_run(tmp_path / "old" / "0", 0.5, 0.0, 0, 1, 0.8)
    failed = write_made_run(tmp_path / "new" / "0", 0.5, 0.0, 0, 1, 0.8)
    other = write_made_run(tmp_path / "new" / "1", 0.8, 0.0, 0, 1, 0.8)
    for run in (failed, other):
        summary = json.loads((run / "summary.json").read_text())
        (run / "summary.json").write_text(json.dumps({**summary, "status": "failed"}))
    assert [run.status for run in load([tmp_path / "new"])] == ["failed", "failed"]
    write_record(tmp_path / "new", "key", ["a"], [Job(overrides=["a=1"], hash="x", folder=done)])
    runs = load([tmp_path / "new"])
    assert [(run.status, run.folder.resolve()) for run in runs] == [
        ("failed", other),
        ("completed", done),
    ]


def test_a_broken_summary_never_stops_the_rest(tmp_path: Path) -> None:
    write_made_run(tmp_path / "0", 0.5, 0.0, 0, 1, 0.8)
    broken: list[Any] = [[], {"status": "completed", "metrics": [1]}, {"metrics": {}}, "text"]
    for number, summary in enumerate(broken, 1):
        run = write_made_run(tmp_path / str(number), 0.5, 0.0, 0, 1 + number, 0.8)
        (run / "summary.json").write_text(json.dumps(summary))
    binary = write_made_run(tmp_path / "9", 0.5, 0.0, 0, 9, 0.8)
    (binary / "summary.json").write_bytes(b"\xff\xfe\x00")
    runs = load([tmp_path])
    assert [run.status for run in runs] == ["completed"] + ["broken"] * 5
    assert len(compare(runs).groups) == 1


def test_folders_without_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        load([tmp_path])
    with pytest.raises(UserError, match=r"there is no folder .*/nowhere; give one that the last"):
        load([tmp_path / "nowhere"])


def test_runs_that_were_never_evaluated_are_not_ranked(tmp_path: Path) -> None:
    """As a SparseTrainer without eval_dataset leaves them."""
    for seed, sparsity in enumerate((0.5, 0.8)):
        run = write_made_run(tmp_path / str(seed), sparsity, 0.0, 0, seed, 0.8)
        summary = json.loads((run / "summary.json").read_text())
        del summary["metrics"]
        (run / "summary.json").write_text(json.dumps(summary))
    done = CliRunner().invoke(app, ["compare", str(tmp_path)])
    assert "2 configs, none evaluated" in done.output, done.output
    assert not {"best", "tie", "Pareto"} & set(done.output.split())
    text = (tmp_path / "compare.md").read_text()
    assert "2 configs, 2 runs, not ranked, because none was evaluated" in text
    by_size = CliRunner().invoke(app, ["compare", str(tmp_path), "--metric", "size MB"])
    assert "2 configs by size MB" in by_size.output


def test_one_config_is_singular(tmp_path: Path) -> None:
    write_made_run(tmp_path / "run", 0.5, 1.0, 2, 1, 0.9)
    done = CliRunner().invoke(app, ["compare", str(tmp_path)])
    assert "1 config by validation accuracy" in done.output, done.output


def test_the_command_writes_three_files(sweep: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["compare", str(sweep), "--out", str(tmp_path / "here")])
    assert done.exit_code == 0, done.output
    assert "8 configs by validation accuracy" in done.output
    assert "broken: " in done.stderr
    rows = list(csv.DictReader((tmp_path / "here" / "compare.csv").read_text().splitlines()))
    assert len(rows) == 27
    assert {row["status"] for row in rows} == {"completed", "broken", "failed", "unfinished"}
    text = (tmp_path / "here" / "compare.md").read_text()
    table = [line for line in text.splitlines() if line.startswith("| 0.")]
    assert len(table) == 8
    assert table[0].count("best") == 1
    link = text.split("](")[1].split(")")[0]
    assert (tmp_path / "here" / link / "summary.json").is_file()
    done = CliRunner().invoke(app, ["compare", str(tmp_path / "nothing")])
    assert (done.exit_code, "error: there is no folder" in done.stderr) == (1, True)


def test_it_imports_no_torch(sweep: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from sparsekit.compare.write import *;"
        f"write_comparison([Path({str(sweep)!r})]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_thousand_runs_in_five_seconds(tmp_path: Path) -> None:
    grid = [i / 100 for i in range(84)]
    assert write_made_sweep(tmp_path, grid, (0.0, 1.0), (0, 2)) == 1008
    # Processor seconds: tests share the machine with others.
    began = time.process_time()
    comparison, files = write_comparison([tmp_path])
    assert time.process_time() - began < 5
    assert len(comparison.groups) == 336
    assert files[2].stat().st_size < 1_000_000


def test_text_cannot_leave_the_data(sweep: Path, tmp_path: Path) -> None:
    runs = load([sweep])
    runs[0].config["dataset"] = "</script><script>alert(1)</script>"
    text = page(compare(runs), tmp_path)
    assert "<script>alert(1)" not in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


HOSTILE = "=1+1\x1b[31m</script><img src=x onerror=alert(1)>[a](javascript:b)|"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Runs whose config, metric, error and folder names try to be more than text."""
    for seed in (1, 2):
        run = write_made_run(tmp_path / str(seed), 0.5, 0.0, 0, seed, 0.8)
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["recipe"]["note"] = HOSTILE + str(seed)
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        summary = json.loads((run / "summary.json").read_text())
        summary["metrics"]["validation"][HOSTILE] = 0.5
        (run / "summary.json").write_text(json.dumps(summary))
    failed = tmp_path / "\x1b[31mred (a)"
    failed.mkdir()
    (failed / "summary.json").write_text(json.dumps({"status": "failed", "error": HOSTILE}))
    return tmp_path


def test_text_from_runs_stays_text(hostile: Path) -> None:
    """No escape reaches the terminal, no formula a spreadsheet, no HTML or link the Markdown."""
    done = CliRunner().invoke(app, ["compare", str(hostile)])
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output + done.stderr
    assert "failed: " in done.stderr and r"\x1b[31m</script>" in done.stderr
    text = (hostile / "compare.md").read_text()
    assert "\x1b" not in text and "<img" not in text and "[a](" not in text
    rows = list(csv.reader((hostile / "compare.csv").read_text().splitlines()))
    assert {len(row) for row in rows} == {len(rows[0])} | {4 + rows[0].count("recipe.note")}
    cells = [cell for row in rows for cell in row]
    assert any(cell.startswith("'=1+1") for cell in cells)
    assert not any(cell.startswith(("=", "@", "+")) for cell in cells)
    assert "\x1b" not in "".join(cells)
    assert "</script><img" not in (hostile / "compare.html").read_text()


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_metric_that_is_no_number_is_missing(tmp_path: Path, value: str) -> None:
    """As text, as `write_summary` has it, and as Python's own JSON would."""
    for seed, written in ((1, f'"{value}"'), (2, value.replace("inf", "Infinity"))):
        run = write_made_run(tmp_path / str(seed), 0.5, 0.0, 0, seed, 0.8, metric="f1")
        text = (run / "summary.json").read_text().replace('"f1": 0.8', f'"f1": {written}')
        (run / "summary.json").write_text(text.replace("nan", "NaN") if seed == 2 else text)
    write_made_run(tmp_path / "3", 0.5, 0.0, 0, 3, 0.7, metric="f1")
    write_made_run(tmp_path / "4", 0.8, 0.0, 0, 4, 0.6, metric="f1")
    comparison, files = write_comparison([tmp_path])
    first, second = (group.statistics["validation f1"] for group in comparison.groups)
    assert (first, second) == (Statistic(0.7, None, 1), Statistic(0.6, None, 1))
    data = files[2].read_text().split('id="data">')[1].split("</script>")[0]

    def refuse(constant: str) -> None:
        raise AssertionError(f"the browser cannot parse {constant}")

    assert json.loads(data, parse_constant=refuse)["metric"] == "validation f1"


def test_damaged_files_of_a_run_never_stop_the_rest(tmp_path: Path) -> None:
    write_made_run(tmp_path / "0", 0.5, 0.0, 0, 1, 0.8)
    odd: list[tuple[str, str]] = [
        ("config.yaml", "training: [1]"),
        ("config.yaml", "1: 2\na: 3\nb: {c: {1: 2, d: 3}}"),
        ("config.yaml", "date: 2026-99-99"),
        ("summary.json", '{"status": "completed", "error": 3, "config": {"hash": [1]}}'),
        ("summary.json", '{"status": "completed", "metrics": {"validation": {"f1": 1%s}}}'),
        ("summary.json", "[" * 100_000),
    ]
    for number, (name, text) in enumerate(odd, 1):
        run = write_made_run(tmp_path / str(number), 0.5, 0.0, 0, 1 + number, 0.8)
        (run / name).write_text(text.replace("%s", "0" * 400))
    for text in ('{"jobs": null}', "[1]", "1", '{"jobs": [{"folder": "' + "x" * 5000 + '"}]}'):
        (tmp_path / "sweep.json").write_text(text)
        assert "completed" in [run.status for run in load([tmp_path])]
    _, files = write_comparison([tmp_path])
    assert files[2].stat().st_size


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if chromium() is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    with browse(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


ROWS = "[...document.querySelectorAll('#groups tbody tr')]"


def column(tab: Page, heading: str) -> list[str]:
    """The texts of one column of the table of configs, from the top."""
    texts: list[str] = tab.evaluate(
        "(() => {const heads = [...document.querySelectorAll('#groups th')].map(h => h.innerText);"
        f"const at = heads.findIndex(h => h.startsWith({heading!r}));"
        f"return {ROWS}.map(row => row.children[at].innerText)}})()"
    )
    return texts


def click(tab: Page, heading: str) -> None:
    tab.evaluate(
        "[...document.querySelectorAll('#groups th button')]"
        f".find(b => b.innerText === {heading!r}).click()"
    )


def choose(tab: Page, select: str, value: str) -> None:
    tab.evaluate(
        f"(() => {{const s = document.getElementById({select!r}); s.value = {value!r};"
        "s.dispatchEvent(new Event('change'))})()"
    )


def test_the_page_in_a_browser(sweep: Path, tab: Page) -> None:
    _, files = write_comparison([sweep])
    tab.open(files[2])
    assert tab.problems() == []
    assert "8 configs, 24 runs, ranked by validation accuracy; 3 without" in tab.evaluate(
        "document.getElementById('overview').innerText"
    )
    ranked = [float(text.split(" ")[0]) for text in column(tab, "validation accuracy")]
    assert ranked == sorted(ranked, reverse=True)
    assert column(tab, "rank")[0].startswith("best")
    click(tab, "onnxruntime latency ms")
    latencies = [float(text.split(" ")[0]) for text in column(tab, "onnxruntime latency ms")]
    assert latencies == sorted(latencies)
    click(tab, "onnxruntime latency ms")
    assert column(tab, "onnxruntime latency ms")[0].startswith(f"{max(latencies):.4f}")
    # Plots: a dot a config on the front's plot, a path a config in parallel, a plot an axis.
    assert tab.evaluate("document.querySelectorAll('#pareto circle').length") == 8
    assert tab.evaluate("document.querySelectorAll('#parallel path.path').length") == 8
    assert tab.evaluate("document.querySelectorAll('#lines svg').length") == 3
    assert tab.evaluate("document.querySelectorAll('#lines circle').length") == 24
    front = tab.evaluate("document.querySelector('#pareto .frontline').getAttribute('d')")
    assert front.startswith("M")
    assert "NaN" not in tab.evaluate("document.querySelector('main').innerHTML")
    choose(tab, "cost", "size MB")
    assert "size MB" in tab.evaluate("document.getElementById('pareto').textContent")
    assert tab.evaluate("document.querySelector('#pareto .frontline').getAttribute('d')") != front
    # The error's markup is shown as text.
    assert "<b>out of memory</b>" in tab.evaluate("document.getElementById('others').innerText")
    assert tab.problems() == []


def test_the_pages_links_and_diff(sweep: Path, tab: Page) -> None:
    _, files = write_comparison([sweep])
    tab.open(files[2])
    links = tab.evaluate("[...document.querySelectorAll('#groups a')].map(a => a.href)")
    assert len(links) == 24
    assert {Path(link.removeprefix("file://")) / "summary.json" for link in links} == {
        sweep / str(number) / "summary.json" for number in range(24)
    }
    names = tab.evaluate("[...document.querySelectorAll('#first option')].map(o => o.text)")
    at = {name.split(" ")[0]: str(index) for index, name in enumerate(names)}
    choose(tab, "first", at["0"])  # 0.5, hardness 0, no QAT, seed 1
    choose(tab, "second", at["3"])  # the same with 2 epochs of QAT
    rows = tab.evaluate(
        "[...document.querySelectorAll('#diff tr')].slice(1).map(r => "
        "[...r.children].map(c => c.innerText))"
    )
    assert sorted(rows) == [["recipe.qat_epochs", "0", "2"], ["recipe.qat_start_epoch", "6", "4"]]
    choose(tab, "second", at["0"])
    assert "are equal" in tab.evaluate("document.getElementById('diff').innerText")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 900, 400])
def test_the_page_in_any_window(
    sweep: Path, tab: Page, tmp_path: Path, width: int, scheme: str
) -> None:
    _, files = write_comparison([sweep])
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    tab.call("Emulation.setEmulatedMedia", features=features)
    tab.open(files[2])
    tab.screenshot(tmp_path / "page.png", width)
    # Nothing sticks out of the window, and the letters of plots are as large as they say.
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    scales = tab.evaluate("[...document.querySelectorAll('svg')].map(s => s.getScreenCTM().a)")
    assert scales == pytest.approx([1.0] * 5, abs=0.01)
    ink, card = (
        sum(map(int, re.findall(r"\d+", tab.evaluate(f"getComputedStyle({of}).{name}"))[:3]))
        for of, name in (
            ("document.body", "color"),
            ("document.querySelector('section')", "backgroundColor"),
        )
    )
    assert (ink > card) == (scheme == "dark")
    # What the ranking is about is seen without scrolling wherever there is room for it.
    right = "[...document.querySelectorAll('#groups th')][{}].getBoundingClientRect().right"
    assert tab.evaluate(right.format(3 + 3)) <= width or width == 400
    tab.call("Emulation.setEmulatedMedia", features=[])


def test_the_mouse_finds_a_config_everywhere(sweep: Path, tab: Page) -> None:
    _, files = write_comparison([sweep])
    tab.open(files[2])
    dot = "document.querySelector('#pareto circle.best')"
    tab.evaluate(f"{dot}.scrollIntoView({{block: 'center'}})")
    box = f"(() => {{const b = {dot}.getBoundingClientRect(); return [b.x + 4, b.y + 4]}})()"
    x, y = tab.evaluate(box)
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    lit = "[...document.querySelectorAll('.lit')].map(node => node.localName).sort()"
    assert tab.evaluate(lit) == ["circle"] * 4 + ["path", "tr"]
    assert tab.evaluate("getComputedStyle(document.querySelector('path.lit')).strokeWidth") == "3px"
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    assert tab.evaluate(lit) == []


def test_ticks_of_a_sweep_are_its_values(sweep: Path, tab: Page) -> None:
    _, files = write_comparison([sweep])
    tab.open(files[2])
    along = "(() => {const s = document.querySelectorAll('#lines svg')[1];"
    texts = "return [...s.querySelectorAll('text[text-anchor=middle]')].map(t => t.textContent)})()"
    assert tab.evaluate(along + texts) == ["0", "2", "recipe.qat_epochs"]
    rates = tab.evaluate("scale([1e-5, 1e-4, 1e-3], 0, 300, true).ticks")
    assert [text for _, text in rates] == ["1e-5", "1e-4", "0.001"]
    assert rates[1][0] == pytest.approx(150)
    assert tab.evaluate("ticks(0.93212, 0.93218).map(t => t[1])")[:2] == ["0.93212", "0.93214"]


@pytest.mark.parametrize("runs", [0, 1], ids=["only broken", "one"])
def test_the_page_of_few_runs(tmp_path: Path, tab: Page, runs: int) -> None:
    (tmp_path / "9").mkdir()
    (tmp_path / "9" / "summary.json").write_text("{")
    if runs:
        write_made_run(tmp_path / "0", 0.5, 0.0, 0, 1, 0.8)
    _, files = write_comparison([tmp_path])
    tab.open(files[2])
    assert tab.problems() == []
    assert tab.evaluate(f"{ROWS}.length") == runs
    assert tab.evaluate("document.querySelectorAll('#others tr').length") == 1


def test_a_picture_of_the_page(sweep: Path, tab: Page, tmp_path: Path) -> None:
    """Not blank: a page of plots has many colours. COMPARE_PICTURE=FILE keeps it for the docs."""
    _, files = write_comparison([sweep])
    tab.open(files[2])
    picture = Path(os.environ.get("COMPARE_PICTURE", tmp_path / "page.png"))
    tab.screenshot(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 40_000
