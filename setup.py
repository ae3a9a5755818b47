"""Puts conf/ and experiments/ into the wheel and, where asked to, kernels built for every CPU.

`SPARSEKIT_BUILD_KERNELS=1` asks for them; `make wheel` sets it. Without it the wheel is pure
Python, and each machine compiles the kernels when it first needs them.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

KERNELS = os.environ.get("SPARSEKIT_BUILD_KERNELS") == "1"


class Build(build_py):
    """Adds to the package what lies outside of it, or is not Python."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return  # conf/ and experiments/ are found beside the package.
        package = Path(self.build_lib, "sparsekit")
        for name in ("conf", "experiments"):
            shutil.rmtree(package / name, ignore_errors=True)  # of an earlier build
            shutil.copytree(name, package / name)
        shutil.rmtree(package / "kernels" / "built", ignore_errors=True)
        if KERNELS:
            sys.path.insert(0, str(Path(__file__).parent))
            from sparsekit.kernels.prebuilt import build_all

            build_all(package / "kernels" / "built")


class PlatformDistribution(Distribution):
    """Whether it has kernels, and so is for one platform."""

    def has_ext_modules(self) -> bool:
        return KERNELS


class Wheel(bdist_wheel):
    """For any Python: ctypes loads the kernels."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


setup(cmdclass={"build_py": Build, "bdist_wheel": Wheel}, distclass=PlatformDistribution)
