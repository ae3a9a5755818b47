"""The page's kernels, compiled for this machine, where there is no memory left."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from compiler import needs_compiler

import sparsekit.kernels
import sparsekit.web

pytestmark = needs_compiler

# Counts what is allocated, and allocates nothing in call number `argv[1]`.
PROBE = """
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
static long allocated, calls, failing;
static void *counted_alloc(size_t alignment, size_t size) {
    if (++calls == failing)
        return NULL;
    allocated++;
    return aligned_alloc(alignment, size);
}
static void counted_free(void *memory) {
    allocated -= memory != NULL;
    free(memory);
}
#define aligned_alloc counted_alloc
#define free counted_free
#include "web.c"
int main(int argc, char **argv) {
    uint8_t mask[100] = {0x5a};
    int8_t nonzeros[4] = {1, 2, 3, 4};
    failing = atol(argv[argc - 1]);
    weight w = {.rows = 8, .format = PLANES};
    long count = pack_weight(&w, mask, nonzeros, 100);
    printf("%ld %ld", count, allocated);
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web")
    (folder / "probe.c").write_text(PROBE)
    folders = [Path(package.__path__[0]) / "csrc" for package in (sparsekit.kernels, sparsekit.web)]
    flags = ["-O1", "-pthread", "-w", *(f"-I{each}" for each in folders)]
    command = ["cc", *flags, str(folder / "probe.c"), "-o", str(folder / "probe"), "-lm"]
    subprocess.run(command, check=True)
    return folder / "probe"


@pytest.mark.parametrize(
    ("failing", "expected"), [(1, "-1 0"), (2, "-1 0"), (3, "-1 0"), (4, "1 3")]
)
def test_a_weight_without_memory_keeps_none(program: Path, failing: int, expected: str) -> None:
    """The number of steps, or -1, and how many arrays are left."""
    done = subprocess.run([program, str(failing)], capture_output=True, text=True, check=True)
    assert done.stdout == expected
