"""The page of a comparison: what it shows, and that no text of the data becomes markup."""

from __future__ import annotations

from typing import Any

from sparsekit.gate.page import page

TEST: dict[str, Any] = {
    "metric": "accuracy",
    "model": 0.8,
    "against": 0.81,
    "difference": -0.01,
    "lower": -0.02,
    "upper": 0.0,
    "max_drop": 0.05,
    "passed": True,
    "method": "a test",
}


def compared(slice_name: str) -> dict[str, Any]:
    file = {"file": f"{slice_name}.onnx", "sha256": "abc", "runtime": "onnxruntime"}
    undefined = {"difference": None, "lower": None, "upper": None}
    return {
        "rows": 1000,
        "split": "validation",
        "alpha": 0.05,
        "metrics": [TEST],
        "changes": {"gained": 1, "lost": 11},
        "agreement": f"988 of 1000 {slice_name}",
        "slices": {"class": [{"slice": slice_name, "rows": 9, **undefined}]},
        **dict.fromkeys(("model", "against", "data"), file),
    }


def test_the_page_shows_the_comparison() -> None:
    shown = page(compared("good"))
    assert "PASSED: accuracy drops by less than 5 points" in shown
    assert "-1.00 (-2.00 to +0.00) points" in shown
    assert "<td>undefined</td>" in shown and "80.00%" in shown


def test_names_are_escaped() -> None:
    shown = page(compared("<script>alert('x')</script>&"))
    assert "<script" not in shown
    assert shown.count("&lt;script&gt;") == 5
