"""Errors and warnings about kernels that cannot be compiled or loaded."""

from __future__ import annotations

import functools
import logging

log = logging.getLogger(__name__)


class KernelError(RuntimeError):
    """A kernel cannot be compiled, or its shared library cannot or must not be loaded."""


class NoCompilerError(KernelError):
    """There is no working C compiler, so no kernel is available."""


def warn(error: KernelError, loss: str) -> None:
    """Warn of the `loss` without a kernel; of a missing compiler only once for all kernels."""
    if isinstance(error, NoCompilerError):
        warn_of_no_compiler(str(error))
    else:
        log.warning("%s: %s", loss, error)


@functools.cache
def warn_of_no_compiler(reason: str) -> None:
    """Warn once of everything that a missing compiler costs, whichever kernel needs it first."""
    log.warning(
        "%s; until then training on the CPU is slower: dropout, attention, the optimizer and "
        "quantization use torch's operations, and sparse layers dense matmuls",
        reason,
    )
