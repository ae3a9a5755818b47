"""The page of `sparsekit compare` in a real browser."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Page, browse, chromium
from compared_sweep import compared_sweep
from made_runs import write_made_run

from sparsekit.compare.write import write_comparison


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if chromium() is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    with browse(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compared_sweep(tmp_path_factory.mktemp("compare"))


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
@pytest.mark.parametrize("width", [1920, 1400, 1000, 900, 400])
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
    inside = "(({scrollWidth, clientWidth}) => scrollWidth <= clientWidth)"
    whole = tab.evaluate(f"{inside}(document.getElementById('groups').parentElement)")
    assert whole or width < 1000
    assert tab.evaluate("document.getElementById('wide').hidden") == whole
    # What the ranking is about is seen without scrolling wherever there is room for it.
    right = "[...document.querySelectorAll('#groups th')][{}].getBoundingClientRect().right"
    assert tab.evaluate(right.format(3 + 3)) <= width or width == 400
    tab.call("Emulation.setEmulatedMedia", features=[])


@pytest.fixture
def perfect(tmp_path: Path) -> Path:
    """Two configs whose seeds reach an accuracy of 1, one of them with a low one."""
    for number, accuracy in enumerate([1.0, 0.98, 0.6, 0.58]):
        sparsity = 0.5 if number < 2 else 0.8
        run = write_made_run(tmp_path / str(number), sparsity, 1.0, 2, number % 2, accuracy)
        summary = json.loads((run / "summary.json").read_text())
        summary["metrics"]["test"] = {"accuracy": accuracy}
        # The poor one was timed in a quiet moment.
        summary["runtime"]["onnxruntime"]["latency_ms_p50"] = 3.0 if number < 2 else 2.94
        summary["export"]["bytes"] = 20_000_000
        (run / "summary.json").write_text(json.dumps(summary))
    return tmp_path


def test_no_axis_shows_an_accuracy_above_one(perfect: Path, tab: Page) -> None:
    _, files = write_comparison([perfect])
    tab.open(files[2])
    for plot in ("pareto", "parallel", "lines"):
        texts = tab.evaluate(
            f"[...document.querySelectorAll('#{plot} svg text')].map(t => t.textContent)"
        )
        values = [float(text) for text in texts if re.fullmatch(r"[01]\.\d+", text)]
        assert max(values) <= 1.0, (plot, texts)
    # Bars end at 1 too: nothing is drawn above its plot.
    tops = tab.evaluate("[...document.querySelectorAll('#lines path')].map(p => p.getBBox().y)")
    assert min(tops) >= 26 - 0.01
    assert tab.evaluate("document.querySelectorAll('#pareto circle.best').length") == 1


def test_other_measures_are_shown_when_asked_for(perfect: Path, tab: Page) -> None:
    _, files = write_comparison([perfect])
    tab.open(files[2])
    headings = "[...document.querySelectorAll('#groups th')].map(h => h.innerText)"
    assert "test accuracy" not in tab.evaluate(headings)
    tab.evaluate("document.getElementById('all').click()")
    assert {"test accuracy", "training s", "compressed MB"} <= set(tab.evaluate(headings))
    assert column(tab, "test accuracy")[0].startswith("0.9900")
    assert tab.problems() == []


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
