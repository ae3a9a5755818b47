"""What needs a C compiler: the kernels, where no wheel brings them."""

from __future__ import annotations

import shutil

import pytest

needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None, reason="there is no C compiler, as cc"
)
