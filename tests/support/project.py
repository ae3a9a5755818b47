"""Where the project's own files are."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
# Real data beside the project; a test that needs it skips where it is absent.
SHARED = ROOT.parent / "shared"
SUPPORT = Path(__file__).resolve().parent
SPARSEML_RECIPES = ROOT / "tests" / "sparseml_recipes"
# Outputs of SparseML 1.8.0, recorded by running it.
GOLDEN = ROOT / "tests" / "golden"
