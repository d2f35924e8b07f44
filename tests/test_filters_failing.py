"""A filter whose graph fails while it runs: the stream goes on, and nobody is flooded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from hedge.models.bundle import write_bundle
from hedge.models.errors import ModelError
from hedge.models.manifest import Manifest
from hedge.runtime.backends.onnx import OnnxModel
from hedge.runtime.config import load_config
from hedge.runtime.daemon import serve
from hedge.runtime.filters.screen import Screen


def _gather() -> bytes:
    """Return y = table[int(x[:, :1])], which fails where that is beyond the three of its table."""
    element = TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["x", "from", "to", "axis"], ["first"]),
            helper.make_node("Cast", ["first"], ["place"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "place"], ["y"]),
        ],
        "gather",
        [helper.make_tensor_value_info("x", element, ["B", 4])],
        [helper.make_tensor_value_info("y", element, ["B", 1])],
        [
            helper.make_tensor("from", TensorProto.INT64, [1], [0]),
            helper.make_tensor("to", TensorProto.INT64, [1], [1]),
            helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
            helper.make_tensor("table", element, [3], [-9.0, 9.0, -9.0]),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    made: bytes = helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    return made


def test_a_graph_that_fails_while_it_runs_raises_and_writes_nothing_of_its_own(
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = OnnxModel(_gather(), where="gather.onnx")
    for rows in (1, 2):
        with pytest.raises(ModelError, match="out of data bounds"):
            model.infer(np.full((rows, 4), 7, np.float32))
    assert model.infer(np.ones((1, 4), np.float32)).tolist() == [[9.0]]
    model.close()
    assert capfd.readouterr().err == ""


def test_a_filter_that_always_fails_costs_a_try_now_and_then_and_a_few_lines(
    tmp_path: Path,
    manifest: Manifest,
    bundle_files: Mapping[str, bytes],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = msgspec.structs.replace(
        manifest,
        calibration=msgspec.structs.replace(manifest.calibration, total=2.0),  # type: ignore[type-var]
    )
    write_bundle(tmp_path / "b", made, {**bundle_files, "skip.onnx": _gather()})
    x = np.ones((2314, 4), np.float32)
    x[:, 0] = 7
    x[:3, 0] = (0, 1, 2)
    np.savez(tmp_path / "rows.npz", X=x)
    (tmp_path / "hedge.toml").write_text(
        '[device]\nname = "d"\nstate_dir = "state"\n'
        '[[stream]]\nname = "cam"\nbundle = "b"\nfilter_shadow = 0\n'
        '[stream.source]\nkind = "replay"\npath = "rows.npz"\n'
        '[[sink]]\nkind = "jsonl"\npath = "out.jsonl"\n'
    )
    report = serve(load_config(tmp_path / "hedge.toml", environ={}), base=tmp_path)
    (stream,) = report.streams
    assert (stream.routes["dropped"], stream.routes["accepted"]) == (2, 2312)
    (state,) = stream.filters
    assert (state.seen, state.state) == (3, "on")
    # 16 in a row, then once after 16, 32, 64, 128, 256, 512 and 1024 samples
    assert (state.failed, state.left_out) == (16 + 7, 2311 - 16 - 7)
    assert "onnxruntime:" not in capfd.readouterr().err
    told = [one for one in caplog.records if "filter skip" in one.message]
    assert 16 < len(told) < 25


class _Recovering:
    """A filter that fails eighteen times, and then keeps all."""

    certainty = None
    _tries = 0

    def judge(self, _: NDArray[Any]) -> None:
        self._tries += 1
        if self._tries <= 18:
            raise ModelError("has burnt down", where="filter")


def test_a_filter_that_works_again_is_asked_about_every_sample_again() -> None:
    screen = Screen(_Recovering(), name="skip", kind="skip")
    for _ in range(400):
        assert screen.judge(np.zeros((1, 4), np.float32)) is None
    state = screen.state()
    assert (state.failed, state.left_out) == (18, 16 + 32 + 64)
    assert state.seen == 400 - 18 - 16 - 32 - 64
