"""Calls the C compiler: `$CC`, or `cc` if that is not set."""

from __future__ import annotations

import functools
import os
import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from sparsekit.kernels.errors import KernelError, NoCompilerError

# With OpenMP, for which the loader finds the copy that torch has loaded. The flags of a variant
# follow. No flag may change rounding in the whole process, as loading a -ffast-math library does.
FLAGS = ("-O3", "-fopenmp", "-fPIC", "-shared")


def command() -> list[str]:
    """The command that calls the compiler, without flags."""
    return shlex.split(os.environ.get("CC") or "cc")


def version(compiler: Sequence[str]) -> str:
    """The output of `--version`. Raises NoCompilerError where there is no compiler."""
    try:
        return _output([*compiler, "--version"])
    except FileNotFoundError:
        why = ""
    except OSError as error:
        why = f" ({error.strerror})"
    except subprocess.CalledProcessError as error:
        why = f" (`--version` ended with code {error.returncode})"
    raise NoCompilerError(f"there is no C compiler {compiler[0]!r}{why}; install gcc, or set CC")


def compile_kernel(
    compiler: Sequence[str],
    instructions: Sequence[str],
    flags: Sequence[str],
    sources: Mapping[str, str],
    target: Path,
) -> None:
    """Compile C files into the shared library `target`, beside which they are written.

    instructions: the flags that choose the CPU's instructions; flags: those of this kernel.
    sources: the text of each file by its path.

    Raises KernelError.
    """
    folder = target.parent
    for name, text in sources.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    files = [folder / name for name in sorted(sources) if name.endswith(".c")]
    try:
        _build(compiler, [*FLAGS, *instructions, *flags], files, target)
    except subprocess.CalledProcessError as error:
        if problem := _general_problem(tuple(compiler), (*FLAGS, *instructions)):
            raise NoCompilerError(problem) from error
        raise KernelError(f"{compiler[0]} cannot compile here: {_message(error)}") from error


@functools.cache
def _general_problem(compiler: tuple[str, ...], flags: tuple[str, ...]) -> str | None:
    """Why the compiler fails for any source; None where only one kernel fails to compile."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.c"
        # Every kernel includes this header, so none compiles without the system's headers.
        source.write_text(
            "#include <stdint.h>\nint32_t probe(void) { return 0; }\n", encoding="utf-8"
        )
        try:
            _build(compiler, flags, [source], source.with_suffix(".so"))
        except subprocess.CalledProcessError as error:
            return (
                f"the C compiler {shlex.join(compiler)!r} compiles nothing here: "
                f"{_message(error)}; correct CC, or install gcc"
            )
    return None


def _build(
    compiler: Sequence[str], flags: Sequence[str], sources: Sequence[Path], target: Path
) -> None:
    # -lm comes after the files that need it: linkers resolve from left to right.
    _output([*compiler, *flags, "-o", str(target), *map(str, sources), "-lm"])


def _message(error: subprocess.CalledProcessError) -> str:
    """The first line of the compiler's output."""
    lines = error.stderr.strip().splitlines() or [f"ended with code {error.returncode}"]
    return str(lines[0])


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
