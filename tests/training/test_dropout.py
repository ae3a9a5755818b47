"""Dropout from 16 random bits against the definition of dropout."""

from __future__ import annotations

import ctypes

import pytest
import torch
from compiler import needs_compiler
from torch import Tensor, nn

from sparsekit.kernels import dropout as kernel
from sparsekit.kernels.library import library
from sparsekit.kernels.tensors import address
from sparsekit.training.cpu.dropout import BitDropout, bit_dropout_in, drop


@pytest.fixture(params=[pytest.param("compiled", marks=needs_compiler), "plain"])
def backend(request: pytest.FixtureRequest) -> str:
    """With the kernel, and on a machine that cannot compile it."""
    if request.param == "plain":
        request.getfixturevalue("no_compiler")
    assert kernel.available() is (request.param == "compiled")
    return str(request.param)


def masks(p: float) -> Tensor:
    return drop(torch.ones(999, 1001), p) != 0


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("p", [0.1, 0.5, 1e-5])
def test_masks_keep_the_right_share_at_every_offset(p: float) -> None:
    torch.manual_seed(0)
    mask = masks(p)
    # Within four standard errors; 4 elements share a random word, 128 a block of the kernel.
    for part in (mask, *(mask.flatten()[i::step] for step in (4, 128) for i in range(4))):
        error = (p * (1 - p) / part.numel()) ** 0.5
        assert abs(part.float().mean() - (1 - p)) < 4 * error + 1e-6
    for step in (4, 128):
        first, second = (mask.flatten()[i : 999_000 + i : step].float() for i in range(2))
        correlation = ((first - first.mean()) * (second - second.mean())).mean()
        assert abs(correlation) < 4 * p * (step / 1e6) ** 0.5 + 1e-9


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_two_masks_are_independent(p: float) -> None:
    torch.manual_seed(0)
    first, second = masks(p).float(), masks(p).float()
    assert abs(((first - first.mean()) * (second - second.mean())).mean()) < 4 * p * 1e-3


@needs_compiler
def test_random_bits_are_those_of_philox() -> None:
    """Random123's known answer of Philox4x32-7 for counter and key 0; counters differ by lane."""
    words = torch.empty(4, 16, dtype=torch.int32)
    draw = library(kernel.KERNEL).philox
    draw(ctypes.c_uint64(0), ctypes.c_uint64(0), address(words))
    first = [int(word) & 0xFFFFFFFF for word in words[:, 0]]
    assert first == [0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48]
    sixth = words[:, 5].clone()
    draw(ctypes.c_uint64(0), ctypes.c_uint64(5), address(words))
    assert torch.equal(words[:, 0], sixth)


@needs_compiler
@pytest.mark.parametrize("shape", [(0,), (1,), (127,), (128,), (129, 3), (4, 12, 7, 7)])
def test_the_kernel_accesses_only_its_own_values(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    values = torch.randn(shape)
    longer = torch.cat([values.flatten(), torch.full((200,), torch.nan)])
    dropped = kernel.drop(values, 7, 40_000)
    assert dropped.shape == values.shape
    assert torch.equal(dropped.flatten(), kernel.drop(longer, 7, 40_000)[: values.numel()])
    mask = dropped != 0
    assert torch.equal(dropped[mask], values[mask] * (kernel.STEPS / 40_000))


@needs_compiler
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    values, threads = torch.randn(1000, 77), torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(kernel.drop(values, -3, 50_000))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.usefixtures("backend")
def test_values_keep_their_mean_and_gradients_follow_the_mask() -> None:
    torch.manual_seed(0)
    values = torch.ones(64, 500, requires_grad=True)
    result = BitDropout(0.25)(values)
    assert abs(result.mean() - 1) < 0.02
    assert result.unique().tolist() == pytest.approx([0.0, 1 / 0.75], rel=1e-4)
    result.backward(torch.full_like(result, 3.0))
    assert values.grad is not None
    torch.testing.assert_close(values.grad, result.detach() * 3)


@pytest.mark.usefixtures("backend")
def test_the_same_seed_gives_the_same_mask() -> None:
    torch.manual_seed(3)
    first, other = masks(0.5), masks(0.5)
    torch.manual_seed(3)
    assert torch.equal(masks(0.5), first) and not torch.equal(first, other)


@pytest.mark.usefixtures("backend")
def test_the_limits_of_p_and_evaluation_mode() -> None:
    values = torch.randn(3, 4)
    assert torch.equal(BitDropout(0.5).eval()(values), values)
    assert torch.equal(BitDropout(0.0).train()(values), values)
    assert torch.equal(BitDropout(1.0).train()(values), torch.zeros(3, 4))


def test_every_dropout_of_a_model_is_replaced_and_restored() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.3)), nn.Dropout(0.1)).eval()
    dropouts = [m for m in model.modules() if isinstance(m, nn.Dropout)]
    with bit_dropout_in(model):
        assert [m for m in model.modules() if isinstance(m, nn.Dropout)] == dropouts
        assert [type(m) for m in dropouts] == [BitDropout, BitDropout]
        assert [m.p for m in dropouts] == [0.3, 0.1]
        assert not any(m.training for m in dropouts)
    assert [type(m) for m in dropouts] == [nn.Dropout, nn.Dropout]
