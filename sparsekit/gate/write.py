"""`gate.json` and its page, and the certificate in the model card of the deployment."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsekit.errors import UserError
from sparsekit.gate.gate import CHANGED_ROWS
from sparsekit.gate.page import page
from sparsekit.gate.text import card_section
from sparsekit.onnx.sums import replace_summed
from sparsekit.runs.folder import RunFolder

TITLE = "## Compared with the dense model"
_SECTION = re.compile(rf"{re.escape(TITLE)}\n.*?(?=^## )", re.DOTALL | re.MULTILINE)
# The section of every model card that this one precedes.
_NEXT = "## Run it\n"


def write_gate(run: RunFolder, gate: Mapping[str, Any]) -> None:
    """Write `gate.json`, its page, and the section of the model card with its new sum.

    Raises UserError for a model card that sparsekit did not write.
    """
    card = run.deployment / "README.md"
    text = _SECTION.sub("", card.read_text(encoding="utf-8"))
    before, heading, after = text.partition(_NEXT)
    if not heading:
        raise UserError(
            f"{card} has no section {_NEXT.strip()!r} to put the result before; export the run "
            "again: sparsekit export RUN"
        )
    section = f"{TITLE}\n\n{card_section(gate)}\n\n"
    replace_summed(run.deployment, card.name, before + section + heading + after)
    write_result(run, gate)


def write_result(run: RunFolder, gate: Mapping[str, Any]) -> None:
    """Write `gate.json`, `gate.html` and the changed rows, without the model card.

    This is all for a run whose deployment is not kept.
    """
    _replace(run.gate_page, page(gate))
    _write_rows(run.gate_changed, gate[CHANGED_ROWS])
    kept = {key: value for key, value in gate.items() if key != CHANGED_ROWS}
    _replace(run.gate, json.dumps(kept, indent=2, ensure_ascii=False) + "\n")


def _write_rows(file: Path, rows: Sequence[Mapping[str, Any]] | None) -> None:
    """Write a JSON object a line; no file for None."""
    if rows is None:
        file.unlink(missing_ok=True)
    else:
        _replace(file, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))


def _replace(file: Path, text: str) -> None:
    """Write `file` so that a reader sees it whole or not at all."""
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
