"""The wheel, installed in environments of its own: what is in it, and what it can do there."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from launching import TAUGHT_BY_ITSELF
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from project import GOLDEN, ROOT
from sparse_graphs import write_graph

from sparsekit.kernels.variants import runnable
from sparsekit.system import cpu_flags

RUN = GOLDEN / "old_run"
# Neither the sources of this checkout nor a terminal's width reach the installed command.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "COLUMNS")}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of Python alone."""
    return build(tmp_path_factory.mktemp("wheel"), {})


@pytest.fixture(scope="session")
def kernel_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With kernels, before auditwheel names the glibc that it needs."""
    if platform.machine() != "x86_64" or shutil.which("cc") is None:
        pytest.skip("there is no C compiler for x86-64, as cc")
    folder = tmp_path_factory.mktemp("kernel_wheel")
    return build(folder, {"SPARSEKIT_BUILD_KERNELS": "1"}, wasm=shutil.which("emcc") is not None)


@pytest.fixture(scope="session")
def without_compiler(kernel_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with that wheel. As PATH it has no compiler."""
    python = environment(tmp_path_factory.mktemp("without_compiler"))
    install(python, "--constraint", str(ROOT / "constraints.txt"), str(kernel_wheel))
    assert not any(shutil.which(name, path=Path(python).parent) for name in ("cc", "emcc"))
    return Path(python).parent


def build(folder: Path, variables: dict[str, str], *, wasm: bool = False) -> Path:
    """Built from a copy, so that no earlier build and no file of the checkout slips in.

    wasm: whether the kernels for browsers are compiled first, as `make wasm` does.
    """
    sources = folder / "sources"
    sources.mkdir()
    for name in ("sparsekit", "hydra_plugins", "conf", "experiments"):
        ignored = shutil.ignore_patterns("__pycache__", "built")
        shutil.copytree(ROOT / name, sources / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    if wasm:
        compiled = run([sys.executable, "-m", "sparsekit.web.wasm"], sources)
        assert compiled.returncode == 0, compiled.stderr
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*pip, "--wheel-dir", str(folder), str(sources)],
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_everything_that_is_not_python(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"sparsekit/{file.relative_to(ROOT).as_posix()}"
        for folder in ("conf", "experiments")
        for file in (ROOT / folder).rglob("*.yaml")
    }
    assert len(expected) > 40
    for folder, pattern in (("sparsekit", "*"), ("hydra_plugins", "*.py")):
        expected |= {
            file.relative_to(ROOT).as_posix()
            for file in (ROOT / folder).rglob(pattern)
            if file.is_file() and not {"__pycache__", "built"} & set(file.parts)
        }
    assert "sparsekit/py.typed" in expected
    assert expected - held == set()
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in held)
    assert wheel.name.endswith("-py3-none-any.whl") and not any("/built/" in name for name in held)


@pytest.mark.slow
def test_the_light_installation_uses_a_run_without_torch(
    wheel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    python = environment(tmp_path / "light")
    install(python, "--constraint", str(ROOT / "constraints.txt"), str(wheel))
    for package in ("torch", "transformers", "hydra", "omegaconf", "wandb", "datasets"):
        assert run([python, "-c", f"import {package}"], tmp_path).returncode == 1
    run_folder = tmp_path / "run"
    shutil.copytree(RUN, run_folder)
    for runtime in ("onnxruntime", "sparse"):
        answer = sparsekit(python, tmp_path, "predict", "run", "a film", "--runtime", runtime)
        label, score, text = answer.rstrip("\n").split("\t")
        assert (label, text) == ("1", "a film") and 0.5 <= float(score) <= 1
    assert "bert.encoder.layer.1" in sparsekit(python, tmp_path, "inspect", "run")
    assert "compare.html" in sparsekit(python, tmp_path, "compare", "run", "--out", "out")
    for words in (["train", "dataset=csv"], ["benchmark", "run"], ["prune", "run"]):
        refused = run([python, "-m", "sparsekit", *words], tmp_path)
        assert refused.returncode == 1
        assert refused.stderr.startswith(f"error: sparsekit {words[0]} needs ")
        assert refused.stderr.endswith(": pip install 'sparsekit[train]'\n")
        assert refused.stderr.count("\n") == 1
    (packages,) = (tmp_path / "light").glob("lib/python*/site-packages")
    with capsys.disabled():
        sys.stdout.write(f"\nsparsekit: {size(packages.rglob('*')) / 1e6:.0f} MB installed\n")


# Logits on each runtime: float32 differs by the order of additions, int8 where that moves a value
# over the border of two integers, once or twice in a row.
COMPARISON = """
import sys
from pathlib import Path
import numpy as np
from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.runtime.sparse.runtime import SparseRuntime
for name, limit in (("float32", 1e-5), ("int8", 0.1)):
    file = Path(name, "model.onnx")
    runtimes = SparseRuntime(file, threads=2), OnnxRuntime(file, threads=1)
    random = np.random.default_rng(0)
    for batch, length in ((1, 1), (1, 129), (3, 17), (32, 20)):
        ids = random.integers(5, 120, (batch, length))
        mask = (np.arange(length) < random.integers(1, length + 1, (batch, 1))) * 1
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids * 0}
        actual, expected = (runtime.run(inputs) for runtime in runtimes)
        assert np.abs(actual - expected).max() < limit, (name, batch, length)
    assert np.median(np.abs(actual - expected)) < 1e-5
print(runtimes[0].describe()["kernels"], runtimes[0].describe()["int8"])
"""


@pytest.mark.slow
def test_the_wheel_with_kernels_needs_no_compiler(
    kernel_wheel: Path,
    without_compiler: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert kernel_wheel.name.endswith("-py3-none-linux_x86_64.whl")
    python = str(without_compiler / "python")
    shutil.copytree(RUN, tmp_path / "run")
    for name, quantized in (("float32", False), ("int8", True)):
        (tmp_path / name).mkdir()
        write_graph(tmp_path / name, "bert", quantized=quantized)
    bare = {"PATH": str(without_compiler)}
    variants = [variant.name for variant in runnable((cpu_flags() or "").split())]
    if not variants:
        pytest.skip("this CPU runs none of the variants")
    answers = set()
    for name in ("", *variants):
        chosen = bare | {"SPARSEKIT_KERNELS": name}
        compared = run([python, "-c", COMPARISON], tmp_path, chosen)
        expected = name or variants[0]
        assert compared.stdout == f"{expected} {expected != 'avx512'}\n", compared.stderr
        command = [str(Path(python).with_name("sparsekit")), "predict", "run", "a film"]
        answers.add(run([*command, "--runtime", "sparse"], tmp_path, chosen).stdout.split()[0])
    assert answers == {"1"}
    refused = run([*command, "--runtime", "sparse"], tmp_path, bare | {"SPARSEKIT_KERNELS": "sse"})
    assert refused.returncode == 1
    assert "SPARSEKIT_KERNELS=sse is unknown; choose one of amx, avx512_vnni" in refused.stderr
    assert not (tmp_path / "cache" / "kernels").exists()
    with capsys.disabled():
        libraries = without_compiler.parent.glob("lib/python*/site-packages/**/built/**/*.so")
        sys.stdout.write(
            f"\nwheel with kernels: {kernel_wheel.stat().st_size / 1e6:.2f} MB, "
            f"of which {size(libraries) / 1e6:.2f} MB of libraries when unpacked\n"
        )


@pytest.mark.slow
def test_the_wheel_with_kernels_brings_those_for_browsers(
    without_compiler: Path, tmp_path: Path
) -> None:
    if shutil.which("emcc") is None:
        pytest.skip("there is no emcc: apt-get install emscripten")
    command = [str(without_compiler / "sparsekit"), "web", str(RUN), "--output", "page"]
    done = run(command, tmp_path, {"PATH": str(without_compiler)})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page" / "sparsekit.wasm").read_bytes()[:4] == b"\0asm"
    assert not (tmp_path / "cache" / "wasm").exists()


@pytest.mark.slow
def test_the_wheel_trains_the_quickstart(
    wheel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The packages of this environment, but sparsekit from the wheel alone."""
    python = environment(tmp_path / "train")
    install(python, "--no-deps", str(wheel))
    (packages,) = (tmp_path / "train").glob("lib/python*/site-packages")
    # A path alone: the .pth of an editable installation there is not followed.
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = run([python, "-c", "import sparsekit; print(sparsekit.__file__)"], tmp_path)
    assert Path(where.stdout.strip()).is_relative_to(packages)
    # Every stage, in as few steps as pass through each window of the recipe.
    words = ["experiments=quickstart", *TAUGHT_BY_ITSELF]
    words += ["training.max_steps=30", "tracking=none"]
    words += ["+student.checkpoint.epochs=1"]  # of its pretraining
    shown = sparsekit(python, tmp_path, "train", *words)
    assert list((tmp_path / "cache").glob("quickstart/*/model.safetensors"))
    assert not (tmp_path / "home" / ".cache" / "sparsekit").exists()
    folder = tmp_path / shown.splitlines()[-1].removeprefix("run: ")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "completed"
    assert summary["export"]["verified"]
    assert summary["environment"]["packages"]["sparsekit"] in wheel.name
    files = [file for name in closure("train") for file in importlib.metadata.files(name) or ()]
    with capsys.disabled():
        total = size(Path(file.locate()) for file in files)
        sys.stdout.write(f"\nsparsekit[train]: {total / 1e6:.0f} MB installed\n")


def environment(folder: Path) -> str:
    """The Python of a new environment with pip alone."""
    venv.create(folder, with_pip=True)
    return str(folder / "bin" / "python")


def install(python: str, *arguments: str) -> None:
    command = [python, "-m", "pip", "install", "--quiet", *arguments]
    # With the user's home: pip's cache is there.
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr


def sparsekit(python: str, folder: Path, *arguments: str) -> str:
    """What the installed command prints, run in `folder`."""
    done = run([str(Path(python).with_name("sparsekit")), *arguments], folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(
    command: list[str], folder: Path, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The command's output, run in `folder` with a home and caches below it."""
    own = {"HOME": str(folder / "home"), "SPARSEKIT_CACHE": str(folder / "cache")}
    variables = ENVIRONMENT | own | dict(variables or {})
    return subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, timeout=500
    )


def size(files: Iterable[Path]) -> int:
    """Bytes of the files that are there."""
    return sum(file.stat().st_size for file in files if file.is_file())


def closure(extra: str) -> set[str]:
    """The distributions of this environment that `sparsekit[extra]` brings."""
    installed = {canonicalize_name(found.name) for found in importlib.metadata.distributions()}
    names = {canonicalize_name("sparsekit")}
    wanted = [Requirement(f"sparsekit[{extra}]")]
    while wanted:
        requirement = wanted.pop()
        for text in importlib.metadata.requires(requirement.name) or ():
            needed = Requirement(text)
            contexts = [{"extra": name} for name in requirement.extras or {""}]
            applies = not needed.marker or any(map(needed.marker.evaluate, contexts))
            if applies and canonicalize_name(needed.name) in installed - names:
                names.add(canonicalize_name(needed.name))
                wanted.append(needed)
    return {*names} - {"sparsekit"}
