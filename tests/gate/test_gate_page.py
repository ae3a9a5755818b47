"""The page of a comparison: what it shows, and that no text of the data becomes markup."""

from __future__ import annotations

from typing import Any

from sparsekit.gate.page import page
from sparsekit.gate.text import card_section, verdict

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


def test_a_loss_rises_everywhere_where_it_became_worse() -> None:
    values = {"model": 5.0, "against": 2.0, "difference": -3.0, "lower": -4.0, "upper": -2.5}
    gate = compared("all")
    gate["metrics"] = [TEST | values | {"metric": "mse", "max_drop": 4.5}]
    gate |= {"alpha": 0.025, "changes": None, "calibration": None}
    for shown in (page(gate), card_section(gate)):
        assert "PASSED: mse rises by less than 4.5 (confidence 97.5%)" in shown
        assert "+3.00 (+2.50 to +4.00)" in shown
    assert "intervals of 95%" in page(gate)
    failed = gate["metrics"][0] | {"passed": False, "max_drop": 2.0, "detectable_drop": 0.1}
    assert verdict(failed, 1000, 0.001) == "FAILED: mse rises by 2 or more (confidence 99.9%)"
    assert "not shown that mse rises" in verdict(failed | {"max_drop": 3.0}, 1000, 0.05)


def test_names_are_escaped() -> None:
    shown = page(compared("<script>alert('x')</script>&"))
    assert "<script" not in shown
    assert shown.count("&lt;script&gt;") == 5
