"""Run one experiment, or with `-m` a sweep: `python launch.py dataset=rotten_tomatoes`.

The same as `sparsekit train`, for a checkout.
"""

from __future__ import annotations

import sys

from sparsekit.cli.app import app

if __name__ == "__main__":
    app(["train", *sys.argv[1:]], prog_name="launch.py")
