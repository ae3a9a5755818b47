"""The input of the C encoder: rows of tables by their ids, or embeddings themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsekit.runtime.sparse.c_structures import EmbeddingStruct, TableStruct, address
from sparsekit.runtime.sparse.embeddings import Embedding
from sparsekit.runtime.sparse.graph import Array
from sparsekit.runtime.sparse.native import Encoder
from sparsekit.runtime.sparse.structure import Norm

# The types of tables, as in the C files.
TABLES: dict[type, int] = {np.float32: 0, np.uint8: 1, np.int8: 2}


class EncoderInput:
    """The input of the encoder, as the C structure `embedding`.

    embedding: None if the input is the embeddings themselves, [batch, length, features].
    input_norm: the norm of the first layer's input, where layers normalize their inputs.
    """

    def __init__(
        self, encoder: Encoder, embedding: Embedding | None, input_norm: Norm | None
    ) -> None:
        self.struct = EmbeddingStruct(tables=1, keep_sums=input_norm is not None)
        self.struct.table[0].scale = 1
        if input_norm is not None:
            self.struct.norm = encoder.norm(input_norm)
        if embedding is None:
            return
        self.struct.tables = len(embedding.tables)
        if input_norm is None:
            self.struct.norm = encoder.norm(embedding.norm)
        for i, table in enumerate(embedding.tables):
            type_ = TABLES[table.rows.dtype.type]
            rows = encoder.address(table.rows)
            self.struct.table[i] = TableStruct(type_, table.scale, table.zero_point, rows)

    def fill(self, arrays: Sequence[Array], factors: Array | None) -> None:
        """Set the next input: int64 ids [batch, length] for each table, or the embeddings.

        factors: [batch, length], which the embedding of each token is multiplied by, or None.
        """
        self.struct.length = arrays[0].shape[1]
        self._arrays = [*arrays, *(() if factors is None else (factors,))]
        self.struct.factors = None if factors is None else address(factors)
        for i, array in enumerate(arrays):
            if array.dtype == np.int64:
                self.struct.table[i].ids = address(array)
            else:
                self.struct.table[i].rows = address(array)
