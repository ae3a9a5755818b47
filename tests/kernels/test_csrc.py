"""Each C file and header compiles alone, and Python mirrors the structures of C correctly."""

from __future__ import annotations

import ctypes
import dataclasses
import platform
import subprocess
from pathlib import Path

import pytest
from compiler import needs_compiler

import sparsekit.kernels
from sparsekit.kernels import adamw, attention, dropout, fisher, quantize, sparse_linear
from sparsekit.kernels.errors import KernelError
from sparsekit.kernels.library import Kernel, check_mirrors, library
from sparsekit.kernels.sources import FLAGS as KERNEL_FLAGS
from sparsekit.kernels.sources import sources
from sparsekit.runtime.sparse import native

pytestmark = needs_compiler

CSRC = Path(sparsekit.kernels.__file__).parent / "csrc"
FILES = sorted(str(file.relative_to(CSRC)) for file in CSRC.rglob("*.[ch]"))
TRAINING = (adamw, attention, dropout, fisher, quantize, sparse_linear)
KERNELS = [module.KERNEL for module in (*TRAINING, native)]


def test_every_file_belongs_to_a_kernel() -> None:
    named = {name for kernel in KERNELS for name in sources(kernel.folder)}
    assert named == set(FILES) and len(FILES) > 20
    assert {kernel.folder for kernel in KERNELS} == set(KERNEL_FLAGS)


PROCESSORS = {"baseline": [], "native": ["-march=native"]}
if platform.machine() == "x86_64":
    PROCESSORS["FMA without AVX2"] = ["-march=bdver2"]


@pytest.mark.parametrize("processor", PROCESSORS.values(), ids=PROCESSORS)
@pytest.mark.parametrize("file", FILES)
def test_each_file_compiles_alone(file: str, processor: list[str]) -> None:
    flags = ["-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-fopenmp", *processor]
    result = subprocess.run(["cc", *flags, str(CSRC / file)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.folder)
def test_every_structure_is_checked(kernel: Kernel) -> None:
    """Every structure that C describes has a Python mirror that is compared."""
    described = [
        line.split("_layout[]")[0].rpartition(" ")[2]
        for text in sources(kernel.folder).values()
        for line in text.splitlines()
        if line.startswith("const layout_entry")
    ]
    if kernel is not dropout.KERNEL:  # The attention module mirrors the structure of this folder.
        assert sorted(described) == sorted(kernel.structures)
    check_mirrors(library(kernel), kernel)


class MissingField(ctypes.Structure):
    _fields_ = adamw.Parameter._fields_[:-1]


class SwappedFields(ctypes.Structure):
    first, second, *others = sparse_linear.SparseRows._fields_
    _fields_ = (*others, second, first)


@pytest.mark.parametrize(
    ("kernel", "name", "mirror"),
    [
        (adamw.KERNEL, "parameter", MissingField),
        (sparse_linear.KERNEL, "sparse_rows", SwappedFields),
    ],
)
def test_a_wrong_mirror_of_a_structure_is_refused(
    kernel: Kernel, name: str, mirror: type[ctypes.Structure]
) -> None:
    wrong = dataclasses.replace(kernel, structures={name: mirror})
    with pytest.raises(
        KernelError, match=rf"{name} has the size and offsets .* {mirror.__name__}; correct"
    ):
        library(wrong)


def test_a_wrong_constant_is_refused() -> None:
    wrong = dataclasses.replace(adamw.KERNEL, constants={"block_values": 64})
    with pytest.raises(KernelError, match="block_values is 8192 in C, but 64 in Python"):
        library(wrong)
    missing = dataclasses.replace(adamw.KERNEL, constants={"tile_words": 64})
    with pytest.raises(KernelError, match="has no constant tile_words"):
        library(missing)
