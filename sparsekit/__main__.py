"""`python -m sparsekit`: the same as the command `sparsekit`."""

from __future__ import annotations

from sparsekit.cli.app import app

if __name__ == "__main__":
    app(prog_name="sparsekit")
