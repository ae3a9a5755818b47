"""Running a `deployment/` folder: no torch, no training stack."""
