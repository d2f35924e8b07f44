"""What `hedge check` says of a gate: what audit, promise, budget and drift will come to."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import msgspec
import pytest

from hedge.models.bundle import Bundle, load_bundle
from hedge.models.manifest import Calibration, Promise
from hedge.runtime.checks.gate import check_gate
from hedge.runtime.config import load_config

_UPLINK = '[uplink]\nbroker = "mqtt://127.0.0.1:1"\n'
_PROMISE = Promise(accuracy=0.9, confidence=0.95, by="group", coverage=0.6, rows=50, groups=9)


@pytest.fixture
def bundle(bundle_dir: Path) -> Bundle:
    """Give a sound bundle."""
    return load_bundle(bundle_dir)


def _said(
    bundle: Bundle, calibration: Calibration | None, *, stream: str = "", uplink: str = ""
) -> list[tuple[str, str]]:
    """Return level and text of what is found of the gate of a stream of five samples a second."""
    manifest = msgspec.structs.replace(bundle.manifest, calibration=calibration)
    made = dataclasses.replace(bundle, manifest=manifest)
    text = (
        '[device]\nname = "d"\n[[stream]]\nname = "s"\nbundle = "b"\n'
        f'source = {{ kind = "replay", path = "x", rate_hz = 5 }}\n{stream}\n{uplink}'
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "device.toml"
        file.write_text(text)
        config = load_config(file, environ={})
    return [(one.level, one.text) for one in check_gate(config.stream[0], made, config=config)]


def test_what_audit_promise_budget_and_drift_come_to_is_said(bundle: Bundle) -> None:
    plain = bundle.manifest.calibration
    assert plain is not None
    whole = msgspec.structs.replace(plain, promise=_PROMISE, reference=(0.25,) * 19)
    found = _said(bundle, whole, stream="audit = { share = 0.002 }", uplink=_UPLINK)
    assert {level for level, _ in found} == {"ok"}
    said = "\n".join(text for _, text in found)
    assert "0.2 % of its samples are audited: some 36 asks an hour, 60 asks an hour at most" in said
    assert "0.9 of what the edge decides alone is right" in said
    assert "empirical, for new groups" in said
    assert "drift from those of calibration is watched" in said
    (alone,) = _said(bundle, whole)
    assert "no [uplink], so no audit" in alone[1]
    assert _said(bundle, None, uplink=_UPLINK) == []
    assert "no calibration.reference" in _said(bundle, plain, uplink=_UPLINK)[-1][1]


@pytest.mark.parametrize(
    ("stream", "uplink", "words"),
    [
        ("audit = { share = 0 }", "", "without an audit nothing can hold it to that"),
        ('privacy = { share = "nothing" }', "", "but none may leave the device"),
        (
            "gate = { messages_per_hour = 90 }",
            "budget = { messages_per_hour = 60 }",
            "lets only 60 go",
        ),
    ],
)
def test_a_gate_that_cannot_do_what_is_asked_of_it_is_a_warning(
    bundle: Bundle, stream: str, uplink: str, words: str
) -> None:
    plain = bundle.manifest.calibration
    assert plain is not None
    promised = msgspec.structs.replace(plain, promise=_PROMISE)
    found = _said(bundle, promised, stream=stream, uplink=_UPLINK + uplink)
    assert [text for level, text in found if level == "warning" and words in text]
    assert sum(level == "warning" for level, _ in found) == 1
