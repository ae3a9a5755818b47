"""Which of sparsekit's extras installs a package that is missing."""

from __future__ import annotations

# Name of the module -> the extra of pyproject.toml that brings it.
EXTRAS = {
    **dict.fromkeys(
        (
            *("torch", "transformers", "datasets", "evaluate", "accelerate", "sklearn", "pandas"),
            *("hydra", "omegaconf", "wandb", "onnxscript", "onnx_ir"),
        ),
        "train",
    ),
    **dict.fromkeys(("starlette", "uvicorn", "prometheus_client"), "serve"),
    "matplotlib": "plot",
    "openvino": "openvino",
    "optuna": "optuna",
    "wandb_workspaces": "workspaces",
}


def install_hint(error: ModuleNotFoundError) -> str | None:
    """What is missing and how to install it; None where no extra of sparsekit's brings it.

    >>> install_hint(ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn"))
    "torch: pip install 'sparsekit[train]'"
    """
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS:
        return None
    return f"{module}: pip install 'sparsekit[{EXTRAS[module]}]'"
