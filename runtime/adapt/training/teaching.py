"""Teaching an edge's ONNX graph, its last layer or all of it, from rows and pairs.

How fast it learns is chosen among a few rates, on the rows that calibrate: those that judge it
have no part in that.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ....models.errors import ModelError
from ....models.manifest import Edge
from ....models.measures import escalation_area, hits
from ....models.model import Model, infer_all
from ....models.opinion import Assessor
from ....models.prepare import Prepare, preparer
from ....models.training.adapting import Effort, Lessons, Rows, adapt
from ...backends import open_model
from ..material import Material, Taught
from .edge_graph import Head, find_head, read_model, with_features, with_weights
from .torch_graph import TorchGraph

_BATCH = 64
_RUN = 256
_STEPS = (300, 2000)
_EPOCHS = 20
_HEAD_RATES = (1e-3, 1e-2)
_ALL_RATES = (3e-4, 1e-3, 3e-3)
_ALIKE = 1e-3  # of the greatest output: what two libraries may differ by


class _Net(NamedTuple):
    """A net to teach, what it is fed, and the arrays that the graph has for its weights."""

    make: Callable[[], nn.Module]
    fed: Callable[[Rows], Tensor]
    arrays: Callable[[nn.Module], dict[str, NDArray[np.float32]]]
    rates: tuple[float, ...]


def teach(
    data: bytes,
    edge: Edge,
    material: Material,
    *,
    spec: Any,  # noqa: ANN401
    all_layers: bool,
    seed: int,
    share: float,
    where: str,
    say: Callable[[str], None],
) -> Taught:
    """Return the graph ``data`` of ``edge``, taught.

    Raises:
        ModelError: its last layer is not found, or it cannot be taught as a whole.
    """
    model = read_model(data, where=where)
    classes = material.cloud.shape[1]
    head = find_head(model, output=edge.output_name, classes=classes, where=where)
    with closing(
        open_model(with_features(model, head), format="onnx", where=where, output=head.features)
    ) as opened:
        prepare = preparer(spec, opened.spec.inputs[0])
        features = None if all_layers else _run(opened, prepare, material.x)
    if features is None:
        net = _whole(model, head, material, prepare, where=where)
        _check_alike(net, data, edge, material, prepare, head=head, where=where)
    else:
        net = _last(head, features)
    return _best(
        net,
        model,
        edge,
        material,
        prepare,
        evidence=edge.head == "evidential" and head.is_last,
        seed=seed,
        share=share,
        where=where,
        say=say,
    )


def _best(
    net: _Net,
    model: onnx.ModelProto,
    edge: Edge,
    material: Material,
    prepare: Prepare,
    *,
    evidence: bool,
    seed: int,
    share: float,
    where: str,
    say: Callable[[str], None],
) -> Taught:
    """Teach at every rate, and return what cooperates best on the rows to choose on."""
    lessons = Lessons(
        fed=net.fed,
        y=torch.from_numpy(np.asarray(material.y, np.int64)),
        cloud=torch.from_numpy(np.asarray(material.cloud, np.float32)),
        edge_unsure=torch.from_numpy(material.edge_unsure),
        cloud_unsure=torch.from_numpy(material.cloud_unsure),
    )
    steps = int(np.clip(_EPOCHS * len(material.x) // _BATCH, *_STEPS))
    assessor = Assessor.of(edge, classes=material.cloud.shape[1], score="max_prob")
    found: list[tuple[float, Taught]] = []
    for rate in net.rates:
        pupil = net.make()
        adapt(
            pupil,
            lessons,
            xi=material.xi,
            has_evidence=evidence,
            effort=Effort(steps=steps, rate=rate, batch=_BATCH),
            seed=seed,
        )
        data = with_weights(model, net.arrays(pupil))
        with closing(
            open_model(data, format="onnx", where=where, output=edge.output_name)
        ) as opened:
            opinions = assessor.assess_batch(_run(opened, prepare, material.check))
        right = hits(opinions.probs, material.check_y)
        area = float(
            escalation_area(
                opinions.score, right, material.check_cloud, up_to=min(1.0, 2 * share) or 1.0
            )
        )
        say(f"rate {rate:g}, {steps} steps: edge {right.mean():.1%}, cooperative {area:.2%}")
        found.append((area, Taught(data, rate)))
    return max(found, key=lambda one: one[0])[1]


def _last(head: Head, features: NDArray[np.float32]) -> _Net:
    """Return the last layer alone."""
    rows = torch.from_numpy(features)

    def make() -> nn.Module:
        width, classes = head.weight.shape
        layer = nn.Linear(width, classes, bias=head.bias_name is not None)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(head.weight.T.copy()))
            if head.bias_name is not None:
                layer.bias.copy_(torch.from_numpy(head.bias.copy()))
        return layer

    def arrays(layer: nn.Module) -> dict[str, NDArray[np.float32]]:
        values = {name: one.detach().numpy() for name, one in layer.named_parameters()}
        return head.arrays(values["weight"].T, values.get("bias", head.bias))

    return _Net(make, lambda which: rows[torch.from_numpy(which)], arrays, _HEAD_RATES)


def _whole(
    model: onnx.ModelProto, head: Head, material: Material, prepare: Prepare, *, where: str
) -> _Net:
    """Return all layers up to the logits."""

    def make() -> TorchGraph:
        return TorchGraph(model, target=head.logits, where=where)

    def arrays(net: nn.Module) -> dict[str, NDArray[np.float32]]:
        assert isinstance(net, TorchGraph)  # noqa: S101  `make` makes nothing else
        return {name: one.detach().numpy() for name, one in net.weights.items()}

    return _Net(
        make, lambda which: torch.from_numpy(prepare(material.x[which])), arrays, _ALL_RATES
    )


def _check_alike(
    net: _Net,
    data: bytes,
    edge: Edge,
    material: Material,
    prepare: Prepare,
    *,
    head: Head,
    where: str,
) -> None:
    """Refuse to teach a graph that torch does not compute as the device does."""
    if not head.is_last:
        model = read_model(data, where=where)
        model.graph.output.append(
            onnx.helper.make_tensor_value_info(
                head.logits, onnx.TensorProto.FLOAT, ["B", material.cloud.shape[1]]
            )
        )
        data = model.SerializeToString()
    output = edge.output_name if head.is_last else head.logits
    rows = np.arange(min(len(material.x), _BATCH))
    with closing(open_model(data, format="onnx", where=where, output=output)) as opened:
        wanted = _run(opened, prepare, material.x[rows])
    with torch.no_grad():
        found = net.make().eval()(net.fed(rows)).numpy()
    if found.shape != wanted.shape or np.abs(found - wanted).max() > _ALIKE * max(
        1.0, float(np.abs(wanted).max())
    ):
        raise ModelError(
            "all its layers cannot be taught: torch computes something else than ONNX Runtime",
            where=where,
            hint="leave --all-layers away to teach the last one only",
        )


def _run(opened: Model, prepare: Prepare, x: NDArray[Any]) -> NDArray[np.float32]:
    batches = (prepare(x[at : at + _RUN]) for at in range(0, len(x), _RUN))
    return infer_all(opened, batches).astype(np.float32)
