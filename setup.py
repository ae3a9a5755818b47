"""Puts conf/ and experiments/ into the wheel: they stay at the top level of the repository."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copies both folders into the package, where `sparsekit.config.root` looks for them."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return  # They are found beside the package.
        for name in ("conf", "experiments"):
            target = Path(self.build_lib, "sparsekit", name)
            shutil.rmtree(target, ignore_errors=True)  # of an earlier build
            shutil.copytree(name, target)


setup(cmdclass={"build_py": BuildWithConfigs})
