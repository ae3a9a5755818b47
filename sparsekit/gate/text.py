"""What `sparsekit gate` prints, and the section of the model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from sparsekit.gate.gate import unit
from sparsekit.gate.statistics import POWER
from sparsekit.metrics.difference import model_minus_baseline
from sparsekit.metrics.table import as_text, higher_is_better, is_share


def verdict(test: Mapping[str, Any], rows: int, alpha: float) -> str:
    """One sentence on a tested metric, and what more rows would show where it is not shown."""
    metric, confidence = test["metric"], f"(confidence {percent(1 - alpha)})"
    worse, limit = worsens(metric), amount(metric, test["max_drop"])
    if test["passed"]:
        return f"PASSED: {metric} {worse} by less than {limit} {confidence}"
    if test["upper"] <= -test["max_drop"]:
        return f"FAILED: {metric} {worse} by {limit} or more {confidence}"
    text = f"FAILED: not shown that {metric} {worse} by less than {limit}"
    if test["detectable_drop"] <= test["max_drop"]:
        return text
    return (
        f"{text}; {rows:,} rows are too few: they can show "
        f"{amount(metric, test['detectable_drop'])}, {limit} takes about "
        f"{test['rows_needed']:,} rows (with a chance of {POWER:.0%}, if both are equally good)"
    )


def summary_table(gate: Mapping[str, Any]) -> Table:
    """Both models' scores and what changed, a line each."""
    view = Table("", "model", "baseline", "difference", box=box.SIMPLE_HEAD, pad_edge=False)
    for test in gate["metrics"]:
        metric = test["metric"]
        values = [as_text(metric, test[key]) for key in ("model", "against")]
        view.add_row(metric, *values, interval(metric, test))
    if calibration := gate["calibration"]:
        ours, theirs = calibration["model"], calibration["against"]
        view.add_row("calibration error", f"{ours:.4f}", f"{theirs:.4f}", f"{ours - theirs:+.4f}")
    view.add_row("runtime", gate["model"]["runtime"], gate["against"]["runtime"], "")
    return view


def slices_table(gate: Mapping[str, Any]) -> Table:
    """The difference in each slice, with its interval."""
    metric = "accuracy" if gate["changes"] else gate["metrics"][0]["metric"]
    view = Table("slice", "rows", f"difference of {metric}", box=box.SIMPLE_HEAD, pad_edge=False)
    for kind, lines in gate["slices"].items():
        for line in lines:
            name = Text(f"{kind}: {line['slice']}", overflow="fold")
            view.add_row(name, str(line["rows"]), interval(metric, line))
    return view


def notes(gate: Mapping[str, Any]) -> list[str]:
    """Agreement, changed rows and the method, a sentence each."""
    found = [f"agreement: {gate['agreement']}"]
    if changes := gate["changes"]:
        found.append(
            f"changed: {changes['gained']} rows only the model answers correctly, "
            f"{changes['lost']} only the baseline"
        )
    methods = dict.fromkeys(test["method"] for test in gate["metrics"])
    confidence = f"intervals of {percent(1 - 2 * gate['alpha'])}"
    found.append(f"{confidence}: {'; '.join(methods)}; slices are not corrected for their number")
    return found


def card_section(gate: Mapping[str, Any]) -> str:
    """A section of the model card: the result, and the sums of what was compared."""
    lines = []
    for test in gate["metrics"]:
        metric = test["metric"]
        lines.append(
            f"- {verdict(test, gate['rows'], gate['alpha'])}: {as_text(metric, test['model'])}, "
            f"dense {as_text(metric, test['against'])}, difference {interval(metric, test)}, "
            f"{gate['rows']:,} {gate['split']} rows, {test['method']}."
        )
    sums = ", ".join(
        f"{name} `{gate[key]['sha256']}`"
        for name, key in (("model", "model"), ("baseline", "against"), ("rows", "data"))
    )
    return "\n".join([*lines, f"- SHA-256 sums: {sums}."])


def interval(metric: str, values: Mapping[str, Any]) -> str:
    """The model's score minus the baseline's, with its interval.

    >>> interval("accuracy", {"difference": -0.01, "lower": -0.02, "upper": 0.0})
    '-1.00 (-2.00 to +0.00) points'
    >>> interval("mse", {"difference": -3.0, "lower": -4.0, "upper": -2.5})
    '+3.00 (+2.50 to +4.00)'
    """
    scale, name = unit(metric), " points" if is_share(metric) else ""
    difference, lower, upper = model_minus_baseline(metric, values)
    if difference is None:
        return "undefined"
    text = f"{difference * scale:+.2f}"
    if lower is None or upper is None:
        return f"{text}{name}"
    return f"{text} ({lower * scale:+.2f} to {upper * scale:+.2f}){name}"


def worsens(metric: str) -> str:
    """
    >>> worsens("accuracy"), worsens("mse")
    ('drops', 'rises')
    """
    return "drops" if higher_is_better(metric) else "rises"


def percent(share: float) -> str:
    """A share with as many digits as it has.

    >>> percent(1 - 0.05), percent(1 - 0.025), percent(1 - 0.001)
    ('95%', '97.5%', '99.9%')
    """
    return f"{100 * share:.10g}%"


def amount(metric: str, value: float, style: str = ".3g") -> str:
    """A value or a difference in the unit that users see.

    >>> amount("accuracy", 0.01), amount("mse", 0.01), amount("f1", 0.02, "+.2f")
    ('1 point', '0.01', '+2.00 points')
    """
    number = f"{value * unit(metric):{style}}"
    if not is_share(metric):
        return number
    return f"{number} {'point' if float(number) == 1 else 'points'}"
