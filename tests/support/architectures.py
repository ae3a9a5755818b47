"""The table of architectures in `docs/architectures.md`: one row for each family, from its walk.

python tests/support/architectures.py              every family; takes minutes
python tests/support/architectures.py BERT Llama   these alone; other rows stay as they are
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

import hub_seed
from families import FAMILIES, Family
from family_walk import COLUMNS, Walk, walk
from project import ROOT

PAGE = ROOT / "docs" / "architectures.md"
WORKS, REFUSED = "works", "refused"
HEADER = f"| family | `model_type` | {' | '.join(COLUMNS)} | int8 matmuls |"
TITLE = """\
# Architectures

This table shows what works with which family of transformers for text classification. For each
family, a tiny model with random weights is created by transformers and taken through every step:

- prune: prune to 80 % when the model is loaded;
- obs, wanda: prune in one shot with this method;
- train: train and quantize for a few steps, with a teacher that has another tokenizer;
- reload: load the result with plain transformers;
- export: export, and check the graph with onnxruntime;
- openvino, sparse: run the graph with OpenVINO and with `runtime=sparse`;
- verify: run `sparsekit verify`.

A step "works", or is "refused" with the message below the table; "-" marks a step that an earlier
refusal makes impossible. The last column is the number of matmuls in the exported graph that are
computed in int8. In the messages, X stands for a measured number, and FOLDER for a path.
`make architectures` writes this page, and `tests/pipeline/test_architecture_table.py` compares each
row with a new run.
"""
NOTE = """\
A model that `runtime=sparse` does not support runs with `runtime=onnxruntime` or
`runtime=openvino`. A model that cannot be exported can still be trained with `export=none`.
"""


def row(family: Family, result: Walk) -> str:
    """The line of the table."""
    cells = [_cell(result.cells.get(column, "-")) for column in COLUMNS]
    int8 = result.exported.get("int8_matmuls")
    total = None if int8 is None else int8 + result.exported["fp32_matmuls"]
    count = "-" if int8 is None else f"{int8} of {total}"
    return f"| {family.name} | `{family.model_type}` | {' | '.join(cells)} | {count} |"


def refusals(family: Family, result: Walk) -> list[str]:
    """A line for each sentence with which a step was refused."""
    steps: dict[str, list[str]] = {}
    for column, text in result.cells.items():
        if _cell(text) == REFUSED:
            steps.setdefault(_plain(text), []).append(column)
    return [f"- {family.name}, {', '.join(names)}: {text}" for text, names in steps.items()]


def _cell(text: str) -> str:
    return text if text in (WORKS, "-") else REFUSED


def _plain(text: str) -> str:
    """A sentence without the folders of this machine, and without values measured on it."""
    sentence = re.sub(r"(/[\w.-]+){2,}", "FOLDER", text.replace("\n", " "))
    return re.sub(r"\b\d+\.\d+(e-?\d+)?\b", "X", sentence)


def read() -> dict[str, tuple[str, list[str]]]:
    """The row and the refusals of each family on the page, by its name."""
    found: dict[str, tuple[str, list[str]]] = {}
    lines = PAGE.read_text(encoding="utf-8").splitlines() if PAGE.is_file() else []
    for family in FAMILIES:
        for line in lines:
            if line.startswith(f"| {family.name} |"):
                said = [each for each in lines if _owner(each) == family.name]
                found[family.name] = line, said
    return found


def _owner(line: str) -> str | None:
    """The family whose refusal a line is: "Llama" begins "Llama, padded on the left" too."""
    names = [family.name for family in FAMILIES if line.startswith(f"- {family.name}, ")]
    return max(names, key=len, default=None)


def write(entries: dict[str, tuple[str, list[str]]]) -> None:
    """Write the page."""
    known = [entries[family.name] for family in FAMILIES if family.name in entries]
    separator = "|" + " --- |" * (len(COLUMNS) + 3)
    sentences = [sentence for _, said in known for sentence in said]
    parts = [TITLE, *[HEADER, separator], *(line for line, _ in known)]
    parts += ["", "## Refusals", "", NOTE, *sentences]
    PAGE.write_text("\n".join(parts) + "\n", encoding="utf-8")


def main() -> None:
    names = sys.argv[1:] or [family.name for family in FAMILIES]
    entries = read()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ |= {"HF_HUB_OFFLINE": "1", "SPARSEKIT_CACHE": f"{scratch}/cache"}
        hub_seed.write(Path(scratch) / "seed")
        teacher = str(Path(scratch) / "seed" / "models" / hub_seed.TEACHER)
        for index, family in enumerate(each for each in FAMILIES if each.name in names):
            result = walk(family, teacher, Path(scratch) / str(index))
            entries[family.name] = row(family, result), refusals(family, result)
            write(entries)


if __name__ == "__main__":
    main()
