"""Relative positions are stored by distance, or refused where they depend on more than that."""

from __future__ import annotations

import numpy as np
import pytest

from sparsekit.errors import UserError
from sparsekit.runtime.sparse.graph import Graph, Node
from sparsekit.runtime.sparse.relative_positions import DistanceTables, rows_of_distances
from sparsekit.runtime.sparse.structure import Positions

# Rows 0 to 6 for the distances -3 to 3, and for those beyond.
ROWS = 7


def clipped_distances(extra: tuple[Node, ...] = (), rows: str = "rows") -> Graph:
    """A graph whose tensor `rows` is clip(query - key, -3, 3) + 3, computed as exporters do."""
    constants = {
        "first": np.array([1]),
        "second": np.array([0]),
        "start": np.array(0),
        "step": np.array(1),
        "low": np.array(0),
        "high": np.array(ROWS - 1),
        "middle": np.array(ROWS // 2),
        "axes": np.array([0]),
    }

    def node(op: str, inputs: str, output: str, **attributes: int) -> Node:
        return Node(output, op, tuple(inputs.split()), (output,), attributes)

    nodes = (
        node("Shape", "input_ids", "size", start=1, end=2),
        node("Squeeze", "size", "length"),
        node("Range", "start length step", "places"),
        node("Unsqueeze", "places first", "queries"),
        node("Unsqueeze", "places second", "keys"),
        node("Sub", "queries keys", "distances"),
        node("Add", "distances middle", "shifted"),
        node("Clip", "shifted low high", "clipped"),
        node("Unsqueeze", "clipped axes", "rows"),
    )
    return Graph([*nodes, *extra], constants, ["input_ids"], [rows])


def positions(rows: str = "rows") -> Positions:
    """Two heads of four features, of keys alone: feature 0 of the first head is the row."""
    keys = np.random.default_rng(0).normal(0, 1, (2, ROWS, 4)).astype(np.float32)
    keys[0, :, 0] = np.arange(ROWS)
    return Positions(keys, None, rows, None)


def test_tables_hold_each_distance_and_grow() -> None:
    tables = DistanceTables(clipped_distances(), [positions(), positions()])
    for tokens in (1, 128, 129, 100, 700):
        one, other = tables.of(tokens)
        assert np.array_equal(one.keys, other.keys) and not one.queries.any()
        assert one.keys.shape == one.queries.shape and one.keys.flags.c_contiguous
        # Also those of lanes beyond the last token.
        padded = -(-tokens // 16) * 16
        distances = np.arange(1 - padded, padded)
        expected = np.clip(distances, -3, 3) + 3
        assert np.array_equal(one.keys[0, one.center + distances], expected)
        assert one.keys.shape[1] > one.center + padded


def test_queries_of_positions_are_indexed_by_key_and_query() -> None:
    keys = positions().keys
    [table] = DistanceTables(clipped_distances(), [Positions(None, keys, None, "rows")]).of(20)
    distances = np.arange(-19, 20)
    assert np.array_equal(
        table.queries[0, table.center + distances], np.clip(-distances, -3, 3) + 3
    )
    assert not table.keys.any()


def test_without_positions_there_are_no_tables() -> None:
    assert DistanceTables(clipped_distances(), []).of(1000) == []


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (Node("", "Mul", ("rows", "queries"), ("wrong",), {}), "more than the distance"),
        (Node("", "Add", ("rows", "length"), ("wrong",), {}), "the length of the text"),
        (Node("", "Sub", ("rows", "step"), ("wrong",), {}), "not among the 7 that the model has"),
        (Node("", "Add", ("rows", "step"), ("wrong",), {}), "not among the 7 that the model has"),
        (Node("", "Add", ("rows", "input_ids"), ("wrong",), {}), "positions depend on the texts"),
        (Node("", "Add", ("rows", "nothing"), ("wrong",), {}), "'nothing' is not a constant"),
        (Node("", "Shape", ("rows",), ("wrong",), {}), r"have shape \[3\]"),
        (Node("", "Sinh", ("rows",), ("wrong",), {}), "the operator is not supported"),
    ],
)
def test_rows_that_are_no_function_of_the_distance(extra: Node, message: str) -> None:
    graph = clipped_distances((extra,), "wrong")
    with pytest.raises(UserError, match=message):
        DistanceTables(graph, [positions("wrong")])


def test_rows_of_one_token() -> None:
    assert rows_of_distances("rows", np.array([[[5]]])).tolist() == [5]
