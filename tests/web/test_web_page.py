"""The page of `sparsekit web` in headless Chromium, served on loopback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Page, browse, chromium
from page_deployment import write_deployment
from static_server import Served, serve
from typer.testing import CliRunner

from sparsekit.cli.app import app
from sparsekit.runtime.pipeline import Pipeline
from sparsekit.runtime.sparse.runtime import SparseRuntime

MISSING = [
    name
    for name, found in (("emscripten", shutil.which("emcc")), ("chromium", chromium()))
    if not found
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING), reason=f"missing (Debian): apt-get install {' '.join(MISSING)}"
    ),
]
PHONE = {"width": 380, "height": 700, "deviceScaleFactor": 1, "mobile": False}
TEXTS = ["good", "The film is good.", "A bad film, isn't it? " * 5, "\u4e2d \u00fc! " * 30]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_deployment(folder)
    result = CliRunner().invoke(
        app, ["web", str(folder), "--output", str(folder / "page"), "--title", "Reviews"]
    )
    assert result.exit_code == 0, result.output
    assert "model.bin.gz" in result.output and "python -m http.server" in result.output
    return folder


@pytest.fixture(scope="module")
def served(run: Path) -> Iterator[Served]:
    with serve(run / "page") as served:
        yield served


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory, served: Served) -> Iterator[Page]:
    with browse(tmp_path_factory.mktemp("profile")) as tab:
        tab.open(served.url)
        tab.wait("document.body.dataset.state === 'ready'")
        yield tab


def test_labels_are_as_wide_as_their_words(tab: Page) -> None:
    """A label on one line, beside a bar that begins where all bars begin."""
    tab.call("Emulation.setDeviceMetricsOverride", **PHONE)
    tab.evaluate(
        "(() => {const t = document.getElementById('text'); t.value = 'The film.';"
        "t.dispatchEvent(new Event('input'))})()"
    )
    tab.wait("document.body.dataset.classified === 'The film.'")
    names = ["very negative", "x" * 60]
    boxes = tab.evaluate(
        f"{json.dumps(names)}.map((name, i) => {{"
        "const row = document.querySelectorAll('#answers tr')[i];"
        "row.cells[0].textContent = name; return row}).map(row => {"
        "const box = row.cells[0].getBoundingClientRect();"
        "const bar = row.cells[1].getBoundingClientRect();"
        "return [box.width, box.height, bar.left, bar.width]})"
    )
    line = tab.evaluate("parseFloat(getComputedStyle(document.body).lineHeight)")
    (_, height, left, _), (width, longest, other, bar) = boxes
    assert height < 1.5 * line and longest > 1.5 * line
    assert width <= 192 and left == other and bar > 50
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    tab.call("Emulation.clearDeviceMetricsOverride")
    tab.evaluate("document.getElementById('text').value = ''")


def test_it_classifies_as_a_user_types(
    tab: Page, served: Served, run: Path, tmp_path: Path
) -> None:
    assert tab.evaluate("document.title") == "Reviews"
    tab.evaluate("document.getElementById('text').focus()")
    text = "The film is good."
    for character in text:
        tab.call("Input.insertText", text=character)
    tab.wait(f"document.body.dataset.classified === {json.dumps(text)}")
    rows = tab.evaluate(
        "[...document.querySelectorAll('#answers tr')].map(row => "
        "[row.cells[0].innerText, row.cells[2].innerText])"
    )
    pipeline = Pipeline(run, runtime="sparse", threads=1)
    ((best, second),) = pipeline(text, top_k=None)
    expected = [[each["label"], f"{100 * each['score']:.1f} %"] for each in (best, second)]
    assert rows == expected
    assert "tokens in" in tab.evaluate("document.getElementById('status').innerText")
    tab.screenshot(tmp_path / "page.png", width=1000)
    assert (tmp_path / "page.png").stat().st_size > 5000
    assert tab.problems(served.url) == []
    tab.evaluate(
        "(() => {const t = document.getElementById('text'); t.value = ' ';"
        "t.dispatchEvent(new Event('input'))})()"
    )
    tab.wait("document.querySelectorAll('#answers tr').length === 0")


def test_logits_are_those_of_the_sparse_runtime(tab: Page, run: Path) -> None:
    found = tab.evaluate(
        "import('./classifier.js').then(({Classifier}) => Classifier.load()).then(c => "
        f"{json.dumps(TEXTS)}.map(text => [c.tokenizer.encode(text), [...c.logits(text)]]))"
    )
    runtime = SparseRuntime(run / "deployment" / "model.onnx", 1)
    differences = []
    for ids, logits in found:
        row = np.array([ids])
        inputs = {"input_ids": row, "attention_mask": row * 0 + 1, "token_type_ids": row * 0}
        differences.append(np.abs(runtime.run(inputs)[0] - logits).max())
    # Where an order of float32 additions rounds a value to another integer, one step of int8.
    assert np.median(differences) < 1e-4 and max(differences) < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.unlink(), "The server has no model.bin.gz beside this page (404)."),
        (lambda file: file.write_bytes(file.read_bytes()[:9000]), "it cannot be decompressed"),
        (lambda file: file.write_bytes(b"text"), "it does not begin as one"),
    ],
    ids=["missing", "truncated", "other"],
)
def test_a_model_that_cannot_be_read_is_named(
    change: object, message: str, run: Path, tab: Page, tmp_path: Path
) -> None:
    shutil.copytree(run / "page", tmp_path / "page")
    change(tmp_path / "page" / "model.bin.gz")
    with serve(tmp_path / "page") as served:
        tab.open(served.url)
        tab.wait("document.getElementById('status').className === 'error'")
        assert message in tab.evaluate("document.getElementById('status').innerText")
