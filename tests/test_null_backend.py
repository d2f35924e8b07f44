"""Tests of the model that is none."""

from __future__ import annotations

import numpy as np
import pytest

from hedge.models.errors import ModelError
from hedge.runtime.backends.null import NullModel


def test_the_null_model_gives_its_rows_in_turn() -> None:
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    model = NullModel(rows, shape=(4,))
    given = [model.infer(np.zeros((count, 4), np.float32)) for count in (1, 1, 2, 7)]
    np.testing.assert_array_equal(np.concatenate(given)[:, 0], [0, 2, 4, 0, 2, 4, 0, 2, 4, 0, 2])


def test_the_null_model_takes_the_dtype_it_is_told() -> None:
    model = NullModel(np.ones((1, 2)), shape=(2, 2), dtype=np.int8)
    assert model.infer(np.zeros((1, 2, 2), np.int8)).tolist() == [[1, 1]]
    with pytest.raises(ModelError, match=r"^null: given float32 .*'x' takes int8 \(B, 2, 2\)"):
        model.infer(np.zeros((1, 2, 2), np.float32))


@pytest.mark.parametrize("shape", [(0, 3), (3,), (2, 0)])
def test_the_null_model_needs_rows(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"should be \(N, K\)"):
        NullModel(np.zeros(shape), shape=(4,))
