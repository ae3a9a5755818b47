"""Why there is no native code, and what is lost without it."""

from __future__ import annotations

import functools
import logging

log = logging.getLogger(__name__)


class KernelError(RuntimeError):
    """A kernel cannot be compiled, or its compiled file cannot or must not be loaded."""


class NoCompilerError(KernelError):
    """There is no compiler, or one that compiles nothing: no kernel is available."""


def warn(error: KernelError, loss: str) -> None:
    """Warn of what is lost without a kernel; of a missing compiler only once for all kernels."""
    if isinstance(error, NoCompilerError):
        warn_of_no_compiler(str(error))
    else:
        log.warning("%s: %s", loss, error)


@functools.cache
def warn_of_no_compiler(reason: str) -> None:
    """Name everything that training does without, however many kernels are asked for."""
    log.warning(
        "%s; until then training on the CPU is slower: dropout, attention, the optimizer and "
        "quantization take torch's operations, and zeros are multiplied too",
        reason,
    )
