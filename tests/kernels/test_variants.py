"""The instruction set of the kernels: chosen by the CPU's features, and libraries of the wheel."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparsekit.kernels import library as loading
from sparsekit.kernels import prebuilt
from sparsekit.kernels.dropout import KERNEL
from sparsekit.kernels.errors import KernelError
from sparsekit.kernels.library import library, variant
from sparsekit.kernels.store import compiled_file
from sparsekit.kernels.variants import NATIVE, VARIANTS, chosen, runnable

LEVEL_3 = [
    "abm",
    "avx",
    "avx2",
    "bmi1",
    "bmi2",
    "cx16",
    "f16c",
    "fma",
    "lahf_lm",
    "movbe",
    "popcnt",
    "sse4_1",
    "sse4_2",
    "ssse3",
    "sse2",
]
LEVEL_4 = [*LEVEL_3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]
CPUS = {
    "Nehalem": (["sse4_1", "sse4_2", "popcnt"], []),
    "Haswell": (LEVEL_3, ["avx2"]),
    "Zen 1, of which a host hides AVX2": ([f for f in LEVEL_3 if f != "avx2"], []),
    "Knights Landing": ([*LEVEL_3, "avx512f", "avx512cd"], ["avx2"]),
    "Skylake-X": (LEVEL_4, ["avx512", "avx2"]),
    "Zen 4": ([*LEVEL_4, "avx512_vnni"], ["avx512_vnni", "avx512", "avx2"]),
    "Alder Lake": ([*LEVEL_3, "avx_vnni"], ["avx_vnni", "avx2"]),
    "Sapphire Rapids, of which a host hides AMX": (
        [*LEVEL_4, "avx512_vnni", "avx_vnni"],
        ["avx512_vnni", "avx512", "avx_vnni", "avx2"],
    ),
    "Sapphire Rapids with its tiles": (
        [*LEVEL_4, "avx512_vnni", "avx512_vbmi2", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16"],
        ["amx", "avx512_vnni", "avx512", "avx_vnni", "avx2"],
    ),
}


@pytest.fixture(autouse=True)
def no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARSEKIT_KERNELS", raising=False)


@pytest.mark.parametrize("cpu", CPUS)
def test_the_fastest_variant_that_a_cpu_runs(cpu: str) -> None:
    features, names = CPUS[cpu]
    assert [each.name for each in runnable(features)] == names
    best = chosen(features, VARIANTS)
    assert best.name == (names[0] if names else "native")
    # One that the wheel does not have is passed over.
    others = [each for each in VARIANTS if each is not best]
    assert chosen(features, others).name == (names[1] if len(names) > 1 else "native")
    # From source they are compiled for this CPU.
    assert chosen(features, []) is NATIVE


def test_a_variant_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSEKIT_KERNELS", "avx2")
    assert chosen(CPUS["Zen 4"][0], VARIANTS).name == "avx2"
    monkeypatch.setenv("SPARSEKIT_KERNELS", "native")
    assert chosen(CPUS["Zen 4"][0], VARIANTS) is NATIVE
    monkeypatch.setenv("SPARSEKIT_KERNELS", "avx_vnni")
    with pytest.raises(
        KernelError,
        match=r"^SPARSEKIT_KERNELS=avx_vnni: this CPU lacks avx_vnni; choose one of avx512_vnni, "
        r"avx512, avx2, native, or unset SPARSEKIT_KERNELS$",
    ):
        chosen(CPUS["Zen 4"][0], VARIANTS)
    monkeypatch.setenv("SPARSEKIT_KERNELS", "AVX2")
    with pytest.raises(KernelError, match="SPARSEKIT_KERNELS=AVX2 is unknown; choose one of amx"):
        chosen(CPUS["Zen 4"][0], VARIANTS)


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installation that brings one kernel, as `avx2`, on a CPU with AVX2 and no compiler."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler, as cc")
    folder = tmp_path / "built"
    (folder / "avx2").mkdir(parents=True)
    sources = loading.sources(KERNEL.folder)
    # Built for any CPU, since this one may have none of the variants.
    compiled = compiled_file(sources, loading.FLAGS[KERNEL.folder], instructions=())
    file = shutil.copy(compiled, folder / "avx2" / "dropout.so")
    total = hashlib.sha256(compiled.read_bytes()).hexdigest()
    (folder / "SHA256SUMS").write_text(f"{total}  avx2/dropout.so\n")
    monkeypatch.setattr(prebuilt, "FOLDER", folder)
    monkeypatch.setattr(loading, "cpu_flags", lambda: " ".join(LEVEL_3))
    monkeypatch.setenv("CC", "no-such-compiler")
    library.cache_clear()
    yield Path(file)
    library.cache_clear()


def test_a_kernel_of_the_wheel_needs_no_compiler(wheel: Path) -> None:
    assert variant().name == "avx2"
    assert library(KERNEL)._name == str(wheel)


def test_a_cpu_without_a_variant_compiles(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "cpu_flags", lambda: None)
    assert variant() is NATIVE
    with pytest.raises(KernelError, match="there is no C compiler 'no-such-compiler'"):
        library(KERNEL)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def unlist(file: Path) -> None:
    (file.parents[1] / "SHA256SUMS").write_text("")


def swap(file: Path) -> None:
    """A library whose checksum is listed, but under another name."""
    sums = file.parents[1] / "SHA256SUMS"
    sums.write_text(sums.read_text().replace("dropout", "encoder"))


def remove_the_list(file: Path) -> None:
    (file.parents[1] / "SHA256SUMS").unlink()


@pytest.mark.parametrize("damage", [flip, unlist, swap, remove_the_list, Path.unlink])
def test_a_changed_library_is_not_loaded(wheel: Path, damage: object) -> None:
    damage(wheel)  # type: ignore[operator]
    with pytest.raises(KernelError, match=r"dropout\.so .*; install sparsekit again$"):
        library(KERNEL)
