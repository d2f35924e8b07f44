"""Which variant of a bundle runs on which board."""

from __future__ import annotations

import msgspec
import pytest

from hedge.models.choice import chosen
from hedge.models.errors import BundleError
from hedge.models.manifest import Choice, Edge, Manifest


@pytest.fixture
def pinned(manifest: Manifest) -> Manifest:
    """Three variants: nano takes "small" but "wide" at 10 W, thor "wide" in MAXN alone."""
    edges = tuple(
        Edge(name=name, file="edge.onnx", head="evidential") for name in ("first", "small", "wide")
    )
    choices = (
        Choice(board="nano", power_mode="10W", variant="wide", by="energy"),
        Choice(board="nano", variant="small", by="hand"),
        Choice(board="thor", power_mode="MAXN", variant="wide", by="latency"),
    )
    return msgspec.structs.replace(manifest, edge=edges, choice=choices)


@pytest.mark.parametrize(
    ("boards", "power_mode", "name"),
    [
        (("nano",), "10W", "wide"),
        (("nano",), "5W", "small"),
        (("nano",), None, "small"),
        (("thor",), "MAXN", "wide"),
        (("thor",), "120W", "first"),
        (("thor",), None, "first"),
        (("pi-5",), "10W", "first"),
        ((), None, "first"),
        (("nano-4gb", "nano"), "10W", "wide"),
        (("thor", "nano"), "120W", "small"),
    ],
)
def test_the_choice_for_the_power_mode_goes_before_that_for_the_board_and_that_before_the_first(
    pinned: Manifest, boards: tuple[str, ...], power_mode: str | None, name: str
) -> None:
    assert chosen(pinned, boards=boards, power_mode=power_mode).name == name


def test_a_bundle_without_choices_runs_its_first_variant(manifest: Manifest) -> None:
    assert chosen(manifest, boards=("nano",), power_mode="10W") == manifest.edge[0]


def test_a_bundle_without_edge_models_has_nothing_to_choose_from(manifest: Manifest) -> None:
    with pytest.raises(BundleError, match="steps: has no edge model"):
        chosen(msgspec.structs.replace(manifest, edge=()), boards=("nano",))
