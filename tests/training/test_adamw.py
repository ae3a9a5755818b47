"""RowAdamW against torch's AdamW: results and state, with dense and with sparse gradients."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from compiler import needs_compiler
from tiny_training import Rows, load_student, trainer
from torch import Tensor, nn

from sparsekit.recipe.recipe import Recipe
from sparsekit.training import recipe_trainer as trainer_module
from sparsekit.training.cpu.adamw import RowAdamW

pytestmark = needs_compiler

SETTINGS = {"lr": 1e-2, "betas": (0.9, 0.98), "eps": 1e-8, "weight_decay": 0.05, "fused": True}
# A token embedding, weights that end within a vector and within a block, and a bias.
SHAPES = ((50, 40), (384, 50), (7, 13), (13,))


def weights() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in SHAPES]


def gradients(step: int, scale: float = 1.0) -> list[Tensor]:
    """The first gradient is sparse: one row occurs twice, and some rows occur in no step."""
    torch.manual_seed(step)
    dense = [torch.randn(shape) * scale for shape in SHAPES]
    rows = torch.randint(0, 20, (1, 8))
    rows[0, 0] = rows[0, 1]
    return [
        torch.sparse_coo_tensor(rows, dense[0][:8], SHAPES[0], check_invariants=True),
        *dense[1:],
    ]


def set_gradients(parameters: list[nn.Parameter], new: list[Tensor], dense: bool) -> None:
    for parameter, gradient in zip(parameters, new, strict=True):
        parameter.grad = gradient.to_dense() if dense and gradient.is_sparse else gradient.clone()


def steps(
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    numbers: range,
    dense: bool = False,
    scale: float = 1.0,
) -> list[Tensor]:
    """Clip and step for each of `numbers`; returns the norms."""
    norms = []
    for number in numbers:
        set_gradients(parameters, gradients(number, scale), dense)
        if isinstance(optimizer, RowAdamW):
            norms.append(optimizer.clip(1.0))
        else:
            norms.append(nn.utils.clip_grad_norm_(parameters, 1.0))
        optimizer.step()
    return norms


@pytest.mark.parametrize("scale", [1.0, 1e-3])  # clipped, and not
@pytest.mark.parametrize("weight_decay", [0.05, 0.0])
def test_it_equals_torchs_adamw(weight_decay: float, scale: float) -> None:
    ours, theirs = weights(), weights()
    settings = SETTINGS | {"weight_decay": weight_decay}
    mine, torchs = RowAdamW(ours, **settings), torch.optim.AdamW(theirs, **settings)
    norms = steps(mine, ours, range(20), scale=scale)
    expected = steps(torchs, theirs, range(20), dense=True, scale=scale)
    torch.testing.assert_close(norms, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6)
    for weight, same in zip(ours, theirs, strict=True):
        assert mine.state[weight].keys() == torchs.state[same].keys()
        for name, value in mine.state[weight].items():
            torch.testing.assert_close(value, torchs.state[same][name], rtol=1e-5, atol=1e-7)
    # Rows that never had a gradient are decayed, bit-equal to torch.
    assert torch.equal(ours[0][20:], theirs[0][20:])
    assert torch.equal(ours[0][20:], weights()[0][20:]) == (weight_decay == 0)


@pytest.mark.parametrize("betas", [(0.9, 0.9999), (0.999, 0.99999)])
def test_slow_averages_are_torchs(betas: tuple[float, float]) -> None:
    """1 - 0.99999 computed in float32 differs by 0.1 %, and with it the averages."""
    ours, theirs = weights(), weights()
    settings = SETTINGS | {"betas": betas}
    mine, torchs = RowAdamW(ours, **settings), torch.optim.AdamW(theirs, **settings)
    steps(mine, ours, range(10))
    steps(torchs, theirs, range(10), dense=True)
    for weight, same in zip(ours, theirs, strict=True):
        torch.testing.assert_close(weight, same, rtol=2e-6, atol=2e-6)
        for name, value in mine.state[weight].items():
            expected = torchs.state[same][name]
            smallest = 1e-6 * float(expected.abs().max())  # averages of both signs cancel
            torch.testing.assert_close(value, expected, rtol=2e-6, atol=smallest)


@pytest.mark.parametrize("shape", [(0,), (4, 0), (0, 4)])
def test_a_weight_without_values_changes_nothing(shape: tuple[int, ...]) -> None:
    empty, other = nn.Parameter(torch.empty(shape)), nn.Parameter(torch.ones(3))
    empty.grad, other.grad = torch.empty(shape), torch.full((3,), 2.0)
    optimizer = RowAdamW([empty, other], **SETTINGS)
    torch.testing.assert_close(optimizer.clip(1.0), torch.tensor(12.0).sqrt())
    optimizer.step()
    assert empty.shape == shape and not torch.equal(other, torch.ones(3))


def test_sparse_and_dense_gradients_give_equal_results() -> None:
    ours, same = weights(), weights()
    steps(RowAdamW(ours, **SETTINGS), ours, range(5))
    steps(RowAdamW(same, **SETTINGS), same, range(5), dense=True)
    assert all(torch.equal(a, b) for a, b in zip(ours, same, strict=True))


def test_dense_gradients_may_come_between_sparse_ones() -> None:
    """Rows that only a dense gradient reached go on moving, by their averages."""
    ours, theirs = (nn.Parameter(torch.ones(10, 16)) for _ in range(2))
    mine, torchs = RowAdamW([ours], **SETTINGS), torch.optim.AdamW([theirs], **SETTINGS)
    for row, dense in enumerate([False, True, False, False]):
        gradient = torch.full((10, 16), 0.1) if dense else torch.zeros(10, 16)
        gradient[row] = 1.0
        ours.grad = gradient if dense else gradient.to_sparse(1)
        theirs.grad = gradient
        mine.step()
        torchs.step()
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6)


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            parameters = weights()
            steps(RowAdamW(parameters, **SETTINGS), parameters, range(4))
            results.append(parameters)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("source", [RowAdamW, torch.optim.AdamW])
def test_it_continues_from_a_saved_state(source: type[torch.optim.AdamW]) -> None:
    parameters = weights()
    optimizer = source(parameters, **SETTINGS)
    steps(optimizer, parameters, range(3), dense=True)
    resumed = copy.deepcopy(parameters)
    later = RowAdamW(resumed, **SETTINGS)
    later.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(optimizer, parameters, range(3, 6), dense=True)
    steps(later, resumed, range(3, 6))
    if source is RowAdamW:
        assert all(torch.equal(a, b) for a, b in zip(parameters, resumed, strict=True))
    torch.testing.assert_close(parameters, resumed, rtol=2e-6, atol=2e-6)


def test_rows_with_averages_in_a_loaded_state_are_updated() -> None:
    # Row 30 has averages in the loaded state, and no gradient afterwards.
    parameters = weights()
    optimizer = RowAdamW(parameters, **SETTINGS)
    steps(optimizer, parameters, range(1))
    state = optimizer.state_dict()
    state["state"][0]["exp_avg"][30] = 1.0
    optimizer.load_state_dict(state)
    before = parameters[0][30].clone()
    steps(optimizer, parameters, range(1, 2))
    factor = 1 - SETTINGS["lr"] * SETTINGS["weight_decay"]  # type: ignore[operator]
    assert not torch.allclose(parameters[0][30], before * factor)


def test_a_loaded_state_may_be_transposed() -> None:
    results = []
    for transposed in (False, True):
        parameters = weights()
        optimizer = RowAdamW(parameters, **SETTINGS)
        steps(optimizer, parameters, range(1))
        state = optimizer.state_dict()
        if transposed:
            average = state["state"][1]["exp_avg"]
            state["state"][1]["exp_avg"] = average.t().contiguous().t()
        optimizer.load_state_dict(state)
        steps(optimizer, parameters, range(1, 3))
        results.append(parameters)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_clipping_applies_to_one_step() -> None:
    ours, theirs = weights(), weights()
    mine, torchs = RowAdamW(ours, **SETTINGS), torch.optim.AdamW(theirs, **SETTINGS)
    steps(mine, ours, range(1))
    steps(torchs, theirs, range(1), dense=True)
    set_gradients(ours, gradients(1), dense=False)
    set_gradients(theirs, gradients(1), dense=True)
    mine.step()
    torchs.step()
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6)


CONSTANT = {
    "_target_": "sparsekit.modifiers.pruning.constant.ConstantPruning",
    "params": r"re:.*\.layer\..*dense\.weight",
}
OVER_TOKENS = {
    "_target_": "sparsekit.modifiers.pruning.magnitude.MagnitudePruning",
    "params": "re:.*word_embeddings.weight",
    "init_sparsity": 0.2,
    "final_sparsity": 0.5,
    "end": 1.0,
}
MOVEMENT = {
    **OVER_TOKENS,
    "_target_": "sparsekit.modifiers.pruning.movement.MovementPruning",
    "params": r"re:.*\.layer\..*dense\.weight",
    "init_sparsity": 0.9,
    "final_sparsity": 0.95,
}


def trained(
    folder: Path, student: str, rows: Rows, modifier: dict[str, Any], **options: Any
) -> Any:
    recipe = Recipe.build({"num_epochs": 1, "modifiers": {"pruning": modifier}})
    made = trainer(
        folder,
        load_student(student),
        rows,
        recipe,
        optim="adamw_torch_fused",
        learning_rate=1e-3,
        weight_decay=0.01,
        **options,
    )
    made.train()
    return made


@pytest.mark.parametrize("modifier", [CONSTANT, OVER_TOKENS])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_run_equals_one_with_torchs_adamw(
    tmp_path: Path,
    student_folder: str,
    rows: Rows,
    modifier: dict[str, Any],
    accumulated: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {"gradient_accumulation_steps": accumulated}
    ours = trained(tmp_path, student_folder, rows, modifier, **options)
    assert isinstance(ours.optimizer.optimizer, RowAdamW)
    assert not ours.model.get_input_embeddings().sparse
    monkeypatch.setattr(trainer_module, "steps_by_row", lambda *_: False)
    theirs = trained(tmp_path, student_folder, rows, modifier, **options)
    assert not isinstance(theirs.optimizer.optimizer, RowAdamW)
    norms = [[e["grad_norm"] for e in t.state.log_history if "loss" in e] for t in (ours, theirs)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    for weight, same in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(weight, same, rtol=0, atol=2e-4)


def test_the_trainer_lets_the_optimizer_clip(
    tmp_path: Path, student_folder: str, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The Trainer clips through its accelerator. If that changed, torch would clip in a pass of its
    # own, which dense gradients, as here, would not reveal.
    calls: list[tuple[float, Tensor]] = []
    clip = RowAdamW.clip

    def watched(self: RowAdamW, limit: float) -> Tensor:
        calls.append((limit, clip(self, limit)))
        return calls[-1][1]

    monkeypatch.setattr(RowAdamW, "clip", watched)
    made = trained(tmp_path, student_folder, rows, OVER_TOKENS, max_steps=2, max_grad_norm=1e-3)
    logged = [entry["grad_norm"] for entry in made.state.log_history if "loss" in entry]
    assert [limit for limit, _ in calls] == [1e-3, 1e-3]
    assert logged == [float(norm) for _, norm in calls] and min(logged) > 1e-3


@pytest.mark.parametrize(
    ("modifier", "options"), [(MOVEMENT, {}), (CONSTANT, {"max_grad_norm": 0.0})]
)
def test_modifiers_that_read_gradients_keep_torchs_adamw(
    tmp_path: Path, student_folder: str, rows: Rows, modifier: dict[str, Any], options: Any
) -> None:
    made = trained(tmp_path, student_folder, rows, modifier, max_steps=2, **options)
    assert not isinstance(made.optimizer.optimizer, RowAdamW)


def test_transposed_weights_keep_torchs_adamw(
    tmp_path: Path, student_folder: str, rows: Rows
) -> None:
    student = load_student(student_folder)
    weight = student.model.get_parameter("classifier.weight")
    weight.data = weight.data.t().contiguous().t()
    made = trainer(tmp_path, student, rows, Recipe.build({"num_epochs": 1}), max_steps=1)
    made.train()
    assert not isinstance(made.optimizer.optimizer, RowAdamW)


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_torchs_adamw_is_used(
    tmp_path: Path, student_folder: str, rows: Rows
) -> None:
    made = trained(tmp_path, student_folder, rows, CONSTANT, max_steps=2)
    assert type(made.optimizer.optimizer) is torch.optim.AdamW
    assert not made.model.get_input_embeddings().sparse
