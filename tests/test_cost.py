"""What a device's work costs by its sensors: from a recording to the run's report."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hedge.runtime.config import load_config
from hedge.runtime.cost import Cost, board_reader
from hedge.runtime.daemon import serve
from hedge.runtime.report import RunReport
from hedge.runtime.shipped import bundle_path
from hedge.telemetry.boards.detect import detect
from hedge.telemetry.energy.baseline import Baseline, write_baseline
from hedge.telemetry.ledger import STAGES, Ledger
from hedge.telemetry.power.null import NullReader
from hedge.uplink.absent import Absent

_RECORDING = """# hedge power recording 1
# board: generic-x86
# image: made up
# source: bench
# scope: board
# total: ALL
# step: 0.0001
t_s,ALL
"""


def recording(seconds: float) -> str:
    """Return one of a board that takes 6 W and 7 W in turn, changing fifty times a second."""
    rows = (f"{n / 50:.3f},{6 + n % 2}" for n in range(int(seconds * 50)))
    return _RECORDING + "\n".join(rows) + "\n"


@pytest.fixture
def measured(tmp_path: Path) -> Any:  # noqa: ANN401 -- a function
    """Give what serves the digits for two seconds beside the recording."""
    shutil.copy(bundle_path("digits").with_name("digits-unseen.npz"), tmp_path / "rows.npz")
    (tmp_path / "power.csv").write_text(recording(60))
    (tmp_path / "device.toml").write_text(
        '[device]\nname = "d"\nstate_dir = "state"\nboard = "generic-x86"\n'
        '[telemetry.power]\nreader = "replay"\npath = "power.csv"\nrate_hz = 50\n'
        '[[stream]]\nname = "s"\nbundle = "digits"\n'
        'source = { kind = "replay", path = "rows.npz", rate_hz = 300 }\n'
    )

    def run(idle_w: float | None) -> RunReport:
        if idle_w is not None:
            board = detect()
            baseline = Baseline(
                power_w=idle_w,
                std_w=0.1,
                uncertain_w=0.0001,
                window_s=60.0,
                samples=3000,
                coverage=1.0,
                source="bench of generic-x86, made up",
                total=("ALL",),
                board="generic-x86",
                power_mode=None if board.power_mode is None else board.power_mode.name,
                at_s=1.0,
            )
            (tmp_path / "state").mkdir(mode=0o700)
            write_baseline(baseline, tmp_path / "state")
        return serve(load_config(tmp_path / "device.toml", environ={}), base=tmp_path)

    return run


def test_a_run_tells_what_was_taken_and_of_which_sensor(measured: Any) -> None:  # noqa: ANN401
    found = measured(None).energy
    assert found is not None
    assert (found.scope, found.replayed, found.idle_w, found.net_j) == ("board", True, None, None)
    assert "bench" in found.source
    covered_s = found.window_s * found.coverage
    assert found.total_j == pytest.approx(6.5 * covered_s, rel=0.05)
    assert found.rails_j == {"ALL": pytest.approx(found.total_j)}


def test_above_the_baseline_each_joule_is_shared_out_once_by_stage_and_once_by_route(
    measured: Any,  # noqa: ANN401
) -> None:
    report = measured(4.5)
    (stream,), whole = report.streams, report.energy
    assert whole.net_j == pytest.approx(whole.total_j - 4.5 * whole.window_s * whole.coverage)
    by_stage = sum(one.joules for one in stream.energy.stages.values() if one.busy_s)
    by_route = sum(one.joules for one in stream.energy.routes.values() if one.busy_s)
    assert by_stage == pytest.approx(by_route)
    rest_j = whole.other_j if isinstance(whole.other_j, float) else 0.0
    assert by_route + rest_j == pytest.approx(whole.net_j, abs=whole.net_resolution_j)
    assert set(stream.energy.stages) == set(STAGES)
    accepted = stream.energy.routes["accepted"]
    assert accepted.count == stream.routes["accepted"] > 50
    assert accepted.each_j == pytest.approx(accepted.joules / accepted.count, rel=0.2)


def test_what_the_uplinks_thread_takes_goes_to_whoever_has_asked() -> None:
    class Busy(Absent):
        spent_ns = 0

        def busy_ns(self) -> int:
            return self.spent_ns

    uplink, ledgers = Busy(), {"a": Ledger("a"), "b": Ledger("b")}
    cost = Cost(
        NullReader(),
        rate_hz=1,
        board=detect(),
        state=Path("/nonexistent"),
        ledgers=ledgers,
        uplink=uplink,
        clock=lambda: 0,
    )
    ledgers["a"].routes["escalated"], ledgers["b"].routes["escalated"] = 30, 10
    uplink.spent_ns = 4_000_000
    works = cost._works()
    assert [works[name].stages["uplink"] for name in "ab"] == [(30, 3_000_000), (10, 1_000_000)]
    assert works["a"].routes["escalated"] == (30, 3_000_000)
    ledgers["b"].routes["escalated"] = 12
    uplink.spent_ns = 5_000_000
    assert cost._works()["b"].stages["uplink"] == (12, 2_000_000)
    assert cost.report() is None
    cost.close()


def test_the_boards_state_is_read_anew_each_time(tmp_path: Path) -> None:
    board = detect()
    assert board.profile is not None
    profile = msgspec.structs.replace(
        board.profile, thermal=msgspec.structs.replace(board.profile.thermal, ignored=())
    )
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("cpu-thermal\n")
    (zone / "temp").write_text("41500\n")
    read = board_reader(msgspec.structs.replace(board, profile=profile), root=tmp_path)
    assert (read().temp_c, read().zone) == (41.5, "cpu-thermal")
    (zone / "temp").write_text("83000\n")
    assert read().temp_c == 83.0
    (zone / "temp").unlink()
    assert read().temp_c is None
