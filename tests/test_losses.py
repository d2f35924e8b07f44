"""The adaptive loss, by which the cloud's answers teach the edge, against a hand computation."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch, which trains, is not installed")

from hedge.models.training import losses  # noqa: E402  it needs torch

LOGITS = torch.tensor(
    [[2.0, -1.0, 0.5], [0.3, 0.1, -0.4], [-2.0, 1.0, 3.0], [0.0, 0.7, 0.2]], dtype=torch.float64
)
CLOUD = torch.tensor(
    [[0.1, 0.2, 0.7], [0.9, 0.06, 0.04], [0.25, 0.5, 0.25], [0.05, 0.05, 0.9]], dtype=torch.float64
)
Y = torch.tensor([0, 1, 2, 1])
EDGE = torch.tensor([0.9, 0.6, 0.8, 0.3], dtype=torch.float64)
FAR = torch.tensor([0.2, 0.1, 0.7, 0.1], dtype=torch.float64)
XI = 0.5  # row 2's cloud is unsure, row 3's edge is sure


def test_the_cloud_teaches_only_where_it_is_sure_and_the_edge_is_not() -> None:
    weight = losses.cloud_weight(EDGE, FAR, xi=XI)

    assert weight.tolist() == pytest.approx([0.7, 0.5, 0.0, 0.0])


def test_an_edge_at_the_threshold_is_taught_and_by_a_cloud_at_it_not() -> None:
    edge, far = torch.tensor([0.5, 0.75]), torch.tensor([0.25, 0.5])

    assert losses.cloud_weight(edge, far, xi=0.5).tolist() == [0.25, 0.0]


def test_the_adaptive_loss_is_that_of_a_hand_computation() -> None:
    loss = losses.cooperative(
        LOGITS, Y, cloud=CLOUD, edge_unsure=EDGE, cloud_unsure=FAR, xi=XI
    ).item()

    z, q = LOGITS.numpy(), CLOUD.numpy()
    f = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    rows = [
        0.3 * -np.log(f[0, 0]) + 0.7 * -(q[0] @ np.log(f[0])),
        0.5 * -np.log(f[1, 1]) + 0.5 * -(q[1] @ np.log(f[1])),
        -np.log(f[2, 2]),
        -np.log(f[3, 1]),
    ]
    assert loss == pytest.approx(np.mean(rows), rel=1e-12)


def test_without_labels_only_the_cloud_teaches() -> None:
    loss = losses.cooperative(
        LOGITS, None, cloud=CLOUD, edge_unsure=EDGE, cloud_unsure=FAR, xi=XI
    ).item()

    z, q = LOGITS.numpy(), CLOUD.numpy()
    log_f = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    assert loss == pytest.approx(-(0.7 * q[0] @ log_f[0] + 0.5 * q[1] @ log_f[1]) / 4, rel=1e-12)


def test_a_row_without_a_label_counts_as_one_among_rows_that_have_one() -> None:
    some = torch.tensor([-1, 1, -1, 1])
    both = losses.cooperative(LOGITS, some, cloud=CLOUD, edge_unsure=EDGE, cloud_unsure=FAR, xi=XI)

    parts = []
    for row, label in enumerate(some.tolist()):
        one = slice(row, row + 1)
        parts.append(
            losses.cooperative(
                LOGITS[one],
                None if label < 0 else some[one],
                cloud=CLOUD[one],
                edge_unsure=EDGE[one],
                cloud_unsure=FAR[one],
                xi=XI,
            ).item()
        )
    assert both.item() == pytest.approx(np.mean(parts), rel=1e-12)
    assert parts[2] == 0.0  # neither a label nor a cloud that may teach


def test_nothing_is_learnt_through_the_weight() -> None:
    edge = EDGE.clone().requires_grad_()
    logits = LOGITS.clone().requires_grad_()
    loss = losses.cooperative(logits, Y, cloud=CLOUD, edge_unsure=edge, cloud_unsure=FAR, xi=XI)
    torch.autograd.backward(loss)

    assert edge.grad is None
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


def test_what_the_cloud_says_draws_the_edge_towards_it() -> None:
    logits = LOGITS[:1].clone().requires_grad_()
    loss = losses.cooperative(
        logits, None, cloud=CLOUD[:1], edge_unsure=EDGE[:1], cloud_unsure=FAR[:1], xi=XI
    )
    (gradient,) = torch.autograd.grad(loss, logits)

    assert gradient[0, 2] < 0 < gradient[0, 0]  # more of what it names, less of what it does not
