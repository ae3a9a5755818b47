"""`sparsekit web`: a deployment as a folder that any static server can serve."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from sparsekit.errors import UserError
from sparsekit.runtime.encoder import TextEncoder
from sparsekit.runtime.sparse.loading import load_graph
from sparsekit.runtime.tasks.file import is_own, read_task
from sparsekit.runtime.tasks.text_classification import TextClassificationAnswers
from sparsekit.web.description import describe, refused
from sparsekit.web.packed import Tensors, compressed
from sparsekit.web.tokenizer import describe_tokenizer
from sparsekit.web.wasm import NAME, module_file

MODEL = "model.bin.gz"
PAGE = Path(__file__).parent / "page"


@dataclass(frozen=True)
class WrittenPage:
    """folder: the page; sizes: the bytes of each of its files; unpacked: those of the model."""

    folder: Path
    sizes: dict[str, int]
    unpacked: int


def write_page(deployment: Path, output: Path, title: str) -> WrittenPage:
    """Write the page of a deployment to the folder `output`, which must be new or empty.

    title: the heading of the page.

    Raises UserError for a model that a page cannot run, and where the kernels cannot be compiled.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} is not an empty folder: remove it, or choose another --output")
    model = pack_model(deployment, title)
    module = module_file()
    output.mkdir(parents=True, exist_ok=True)
    for file in sorted(PAGE.iterdir()):
        shutil.copyfile(file, output / file.name)
    shutil.copyfile(module, output / NAME)
    (output / MODEL).write_bytes(compressed(model))
    sizes = {file.name: file.stat().st_size for file in sorted(output.iterdir())}
    return WrittenPage(output, sizes, len(model))


def pack_model(deployment: Path, title: str) -> bytes:
    """The file of the page's model, before compression; see `sparsekit.web.packed`."""
    if is_own(deployment):
        raise refused("its task is a class of your own, in Python")
    answers = read_task(deployment)
    if type(answers) is not TextClassificationAnswers:
        raise refused(f"its task is {type(answers).__name__.removesuffix('Answers')}")
    tensors = Tensors()
    # The tokenizer first: what it refuses is known at once, and a graph takes seconds to load.
    tokenizer = describe_tokenizer(deployment, tensors)
    encoder = TextEncoder(deployment)
    graph = describe(load_graph(deployment / "model.onnx"), tensors)
    positions = [
        tensors.entries[table["rows"]]["shape"][0] - table["first"]
        for table in graph["embedding"]["tables"]
        if table["ids"] == "positions"
    ]
    tokenizer["max_length"] = min([encoder.max_length, *positions])
    header = {"title": title, "labels": encoder.labels, "tokenizer": tokenizer, **graph}
    return tensors.file(header)
