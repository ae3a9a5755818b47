"""Kernels that a wheel brings, built for every variant by setup.py.

Imported by setup.py, so by an environment with the standard library alone.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from sparsekit.kernels import compiler
from sparsekit.kernels.errors import KernelError
from sparsekit.kernels.sources import FLAGS, sources
from sparsekit.kernels.variants import VARIANTS, Variant

FOLDER = Path(__file__).parent / "built"
# Of each library, as `sha256sum --check` reads them.
SUMS = "SHA256SUMS"


def build_all(folder: Path) -> None:
    """Compile every kernel for every variant into `folder`, and record their checksums."""
    command = compiler.command()
    for variant in VARIANTS:
        (folder / variant.name).mkdir(parents=True)
        for name, flags in FLAGS.items():
            with tempfile.TemporaryDirectory() as temporary:
                library = Path(temporary, "kernel.so")
                compiler.compile_kernel(command, variant.flags, flags, sources(name), library)
                shutil.copy(library, folder / _path(variant, name))
    libraries = sorted(folder.glob("*/*.so"))
    lines = [f"{_sum(file)}  {file.relative_to(folder).as_posix()}\n" for file in libraries]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def built() -> list[Variant]:
    """The variants that this installation brings; none where it was installed from source."""
    return [variant for variant in VARIANTS if (FOLDER / variant.name).is_dir()]


def built_file(variant: Variant, name: str) -> Path:
    """The library of the kernel `name`; raises KernelError unless its checksum is the recorded one.

    A process that loads a library runs its code.
    """
    path = FOLDER / _path(variant, name)
    try:
        lines = (FOLDER / SUMS).read_text(encoding="utf-8").splitlines()
        recorded = {file: sum_ for sum_, _, file in (line.partition("  ") for line in lines)}
        whole = recorded.get(_path(variant, name)) == _sum(path)
    except (OSError, UnicodeDecodeError) as error:
        raise KernelError(f"{path} cannot be checked: {error}; install sparsekit again") from error
    if not whole:
        raise KernelError(
            f"{path} is not the file that {FOLDER / SUMS} lists; install sparsekit again"
        )
    return path


def _path(variant: Variant, name: str) -> str:
    return f"{variant.name}/{name}.so"


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
