"""Pairs: what a worker keeps of its answers, where the edge was unsure and the cloud sure."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import resource
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from hedge.models.bundle import Bundle, load_bundle, write_bundle
from hedge.models.errors import ConfigError, DataError
from hedge.models.evidence import vacuity
from hedge.runtime import adapt_command
from hedge.runtime.adapt.pair_keeper import PairKeeper, PairTerms
from hedge.runtime.adapt.pair_store import FILE, PairStore, stores_in
from hedge.runtime.adapt.pairs import About, Pair, doubt_of
from hedge.runtime.adapt.rules import Rule, chosen
from hedge.runtime.local_server.worker_pages import metrics
from hedge.uplink import wire
from hedge.uplink.asks import Answer, Ask
from hedge.uplink.far_end.responder import Answered, Responder
from hedge.uplink.far_end.worker import Worker
from hedge.uplink.link.scripted import ScriptedBroker, ScriptedLink
from hedge.uplink.pump import Pump
from hedge.uplink.topics import Device

ABOUT = About(
    name="steps",
    contract="0123456789abcdef",
    labels=("rest", "walk", "run"),
    dtype="float32",
    shape=(4,),
)
TERMS = PairTerms(about=ABOUT, bundle="b" * 64, score="vacuity", total=0.4, limit=0.5)
SURE = np.array([0.97, 0.02, 0.01], np.float32)
MB = 1 << 20
PAIRS = "hedge_worker_pairs_total"

Keep = Callable[..., PairKeeper]


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keep]:
    """Give `keeper(max_bytes=…)`, which keeps pairs in the test's folder."""
    made: list[PairKeeper] = []

    def make(*, max_bytes: int = MB, terms: PairTerms = TERMS) -> PairKeeper:
        made.append(PairKeeper(tmp_path / "pairs", terms, max_bytes=max_bytes))
        return made[-1]

    yield make
    for one in made:
        one.close()


def _answered(
    ask_id: str,
    *,
    device: str = "d1",
    score: float = 0.8,
    score_name: str = "vacuity",
    cloud: NDArray[np.float32] = SURE,
    alpha: NDArray[np.float32] | None = None,
    first: float = 1.5,
) -> Answered:
    sample = np.array([first, -2.0, 3.25, 0.0], np.float32)
    opinion = wire.WireOpinion(
        wire.pack(np.array([0.5, 0.3, 0.2]), "float32"), score, score_name, score
    )
    request = wire.Request(
        *(1, ask_id, 7, "decide", "steps", ABOUT.contract, "input", None, "float32", (4,)),
        *("raw", opinion, sample.tobytes()),
    )
    return Answered(Device("hall", device), "cam", request, sample, cloud, alpha)


def _store(folder: Path) -> PairStore:
    return PairStore(folder / "pairs" / ABOUT.contract)


def _pairs(folder: Path) -> list[Pair]:
    store = _store(folder)
    found = list(store.pairs())
    store.close()
    return found


def test_a_pair_is_kept_as_it_came_and_for_nobody_else_to_read(
    keeper: Keep, tmp_path: Path
) -> None:
    alpha = np.array([40.0, 1.0, 2.0], np.float32)
    kept = keeper()
    kept([_answered("7-1", alpha=alpha, first=2.5)])
    kept.close()
    (pair,) = _pairs(tmp_path)
    assert (pair.whose, pair.stream, pair.id, pair.kind) == ("hall/d1", "cam", "7-1", "decide")
    assert (pair.state, pair.score, pair.bundle) == ("quarantined", 0.8, "b" * 64)
    np.testing.assert_array_equal(pair.cloud, SURE)
    assert pair.edge is not None
    np.testing.assert_allclose(pair.edge, [0.5, 0.3, 0.2], rtol=1e-6)
    assert pair.alpha is not None
    np.testing.assert_array_equal(pair.alpha, alpha)
    assert pair.doubt == pytest.approx(3 / 43)
    store = _store(tmp_path)
    whole, x = store.samples([pair])
    store.close()
    assert whole == [pair]
    np.testing.assert_array_equal(x, [[2.5, -2.0, 3.25, 0.0]])
    assert x.dtype == np.float32
    file = tmp_path / "pairs" / ABOUT.contract / FILE
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_only_what_the_edge_was_unsure_of_and_the_cloud_sure_is_kept(
    keeper: Keep, tmp_path: Path
) -> None:
    unsure = np.array([0.4, 0.3, 0.3], np.float32)
    kept = keeper()
    kept(
        [
            _answered("1", score=0.39),
            _answered("2", score=float("nan")),
            _answered("3", cloud=unsure),
            _answered("4", alpha=np.array([2.0, 1.0, 1.0], np.float32)),
            _answered("5", score_name="max_prob"),
            _answered("6", score=0.4),
        ]
    )
    kept.close()
    assert [one.id for one in _pairs(tmp_path)] == ["6"]
    counts = kept.counters()
    assert (counts["edge_sure"], counts["cloud_unsure"], counts["other_score"]) == (2, 2, 1)
    assert counts["kept"] == 1


def test_doubt_is_vacuity_with_evidence_and_entropy_without() -> None:
    probs = np.array([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0]])
    entropy = -(0.7 * np.log(0.7) + 0.2 * np.log(0.2) + 0.1 * np.log(0.1)) / np.log(3)
    np.testing.assert_allclose(doubt_of(probs, None), [entropy, 0.0], atol=1e-12)
    alpha = np.array([[7.0, 2.0, 1.5]])
    np.testing.assert_allclose(doubt_of(probs[:1], alpha), vacuity(alpha))


def test_the_same_sample_of_a_device_is_kept_once(keeper: Keep, tmp_path: Path) -> None:
    kept = keeper()
    kept([_answered("1"), _answered("1"), _answered("1", device="d2")])
    kept.close()
    again = keeper()
    again([_answered("1"), _answered("1", first=9.0)])
    again.close()
    assert [(one.device, one.id) for one in _pairs(tmp_path)] == [
        ("d1", "1"),
        ("d2", "1"),
        ("d1", "1"),
    ]
    assert kept.counters()["repeated"] == 1
    assert again.counters()["repeated"] == 1


def test_a_full_folder_lets_the_oldest_of_the_greediest_device_go_and_never_what_was_released(
    tmp_path: Path,
) -> None:
    folder = tmp_path / ABOUT.contract
    store = PairStore(folder, about=ABOUT, max_bytes=MB // 4)
    body = np.zeros(4, np.float32).tobytes()

    def put(device: str, numbers: range) -> None:
        pairs = [_pair(device, number) for number in numbers]
        store.put(pairs, [body] * len(pairs))

    room = store.most
    assert 50 < room < 1000
    put("good", range(20))
    store.release([one.key for one in store.pairs() if one.id in {"0", "1", "2"}])
    put("bad", range(2 * room))
    found = list(store.pairs())
    assert len(found) == room
    assert [one.id for one in found if one.device == "good"] == [str(n) for n in range(20)]
    bad = [int(one.id) for one in found if one.device == "bad"]
    assert bad == list(range(2 * room - len(bad), 2 * room)), "the newest stay"
    put("new", range(5))
    found = list(store.pairs())
    assert len(found) == room
    assert sum(one.device == "new" for one in found) == 5
    assert store.path.stat().st_size <= MB // 4
    store.close()


def test_where_all_is_released_nothing_more_is_kept(tmp_path: Path) -> None:
    store = PairStore(tmp_path / ABOUT.contract, about=ABOUT, max_bytes=MB // 16)
    body = np.zeros(4, np.float32).tobytes()
    pairs = [_pair("d", number) for number in range(store.most)]
    store.put(pairs, [body] * len(pairs))
    store.release([one.key for one in pairs])
    found = store.put([_pair("e", 1)], [body])
    assert (found.kept, found.no_room) == (0, 1)
    assert sum(1 for _ in store.pairs()) == store.most
    store.close()


def _pair(device: str, number: int, *, label: int = 0, confidence: float = 0.9) -> Pair:
    cloud = np.full(3, (1 - confidence) / 2, np.float32)
    cloud[label] = confidence
    return Pair(
        key=f"{device}-{number}".encode().hex().rjust(32, "0"),
        site="hall",
        device=device,
        stream="cam",
        id=str(number),
        kind="decide",
        at_s=1.6e9 + number,
        bundle="b" * 64,
        score=0.8,
        doubt=0.1,
        edge=np.array([0.4, 0.3, 0.3], np.float32),
        cloud=cloud,
        alpha=None,
    )


def test_a_full_disk_costs_pairs_and_is_counted_and_passes(
    keeper: Keep, tmp_path: Path, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    kept = keeper()
    kept([_answered("1")])
    eventually(lambda: kept.counters()["kept"] == 1)
    file = tmp_path / "pairs" / ABOUT.contract / FILE
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:  # SQLite finds the file cannot grow: what a full disk is to it
        resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size, before[1]))
        kept([_answered(f"2-{n}", first=float(n)) for n in range(200)])
        eventually(lambda: kept.counters()["failed"] == 200)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    kept([_answered("3")])
    eventually(lambda: sum(kept.counters()[one] for one in ("kept", "failed")) == 202)
    kept.close()
    assert {one.id for one in _pairs(tmp_path)} <= {"1", "3"}


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda data: data[: len(data) // 2], id="cut short"),
        pytest.param(lambda data: b"\0" * len(data), id="zeros"),
        pytest.param(lambda data: data[:4000] + b"\xff" * 3000 + data[7000:], id="overwritten"),
        pytest.param(lambda data: data[:50], id="a part of the head"),
    ],
)
def test_a_damaged_file_is_refused_by_name_and_laid_aside_by_the_next_worker(
    keeper: Keep, tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    kept = keeper()
    kept([_answered(str(number), first=float(number)) for number in range(100)])
    kept.close()
    file = tmp_path / "pairs" / ABOUT.contract / FILE
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(DataError, match=f"{ABOUT.contract}/{FILE}: is damaged"):
        _read_all(tmp_path / "pairs")
    again = keeper()
    again([_answered("after")])
    again.close()
    assert [one.id for one in _pairs(tmp_path)] == ["after"]
    assert file.with_name(f"{FILE}.damaged").exists()


def _read_all(place: Path) -> None:
    for store in stores_in(place):
        with contextlib.closing(store):
            store.check()


def test_a_sample_whose_bytes_have_changed_is_left_out(keeper: Keep, tmp_path: Path) -> None:
    kept = keeper()
    kept([_answered("1", first=1.0), _answered("2", first=2.0), _answered("3", first=3.0)])
    kept.close()
    base = sqlite3.connect(tmp_path / "pairs" / ABOUT.contract / FILE)
    base.execute("UPDATE pair SET body = zeroblob(16) WHERE id = '1'")
    base.execute("UPDATE pair SET cloud = zeroblob(99999) WHERE id = '2'")
    base.commit()
    base.close()
    store = _store(tmp_path)
    whole, x = store.samples(list(store.pairs()))
    store.close()
    assert [one.id for one in whole] == ["3"]
    assert x[:, 0].tolist() == [3.0]


def test_what_is_no_file_of_pairs_is_never_touched(keeper: Keep, tmp_path: Path) -> None:
    folder = tmp_path / "pairs" / ABOUT.contract
    folder.mkdir(parents=True)
    (folder / FILE).write_text("a diary\n" * 50)
    with pytest.raises(ConfigError, match="is no file of pairs"):
        keeper()
    other = tmp_path / "pairs" / "fedcba9876543210"
    other.mkdir()
    base = sqlite3.connect(other / FILE)
    base.execute("PRAGMA application_id = 77")
    base.execute("CREATE TABLE t (x)")
    base.close()
    with pytest.raises(ConfigError, match="another program's database"):
        PairStore(other)
    assert (folder / FILE).read_text().startswith("a diary")


def test_other_files_beside_the_pairs_are_passed_over(keeper: Keep, tmp_path: Path) -> None:
    kept = keeper()
    kept([_answered("1")])
    kept.close()
    (tmp_path / "pairs" / "notes.txt").write_text("mine")
    (tmp_path / "pairs" / "empty").mkdir()
    (store,) = stores_in(tmp_path / "pairs")
    assert store.about == ABOUT
    store.close()
    with pytest.raises(DataError, match="holds no pairs"):
        stores_in(tmp_path / "pairs" / "empty")


def test_a_writer_that_is_killed_leaves_whole_pairs(tmp_path: Path) -> None:
    program = (
        "import sys, runpy\nfrom pathlib import Path\n"
        f"made = runpy.run_path({str(Path(__file__))!r})\n"
        "store = made['PairStore'](Path(sys.argv[1]), about=made['ABOUT'], max_bytes=1 << 24)\n"
        "body = bytes(16)\n"
        "for group in range(10**6):\n"
        "    store.put([made['_pair']('d', 20 * group + n) for n in range(20)], [body] * 20)\n"
        "    print(group, flush=True)\n"
    )
    folder = tmp_path / ABOUT.contract
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(5)]
        process.kill()
    store = PairStore(folder)
    store.check()
    count = sum(1 for _ in store.pairs())
    store.close()
    assert count >= 20 * len(told)
    assert count % 20 == 0, "a group is there as a whole or not at all"


def test_two_writers_share_a_folder(keeper: Keep, tmp_path: Path) -> None:
    both = keeper(), keeper()
    for number, kept in enumerate(both):
        kept([_answered(f"{number}-{n}", device=f"d{number}") for n in range(30)])
    for kept in both:
        kept.close()
    assert len(_pairs(tmp_path)) == 60


def test_more_than_can_wait_is_counted_and_left_out(keeper: Keep) -> None:
    kept = keeper()
    kept([_answered(str(number)) for number in range(5000)])
    kept.close()
    counts = kept.counters()
    assert counts["overrun"] > 0
    assert counts["kept"] + counts["overrun"] + counts["evicted"] + counts["no_room"] >= 5000


def test_a_worker_keeps_what_it_answers_by_device_and_stream(
    keeper: Keep,
    tmp_path: Path,
    free_port: int,
    start_broker: Callable[..., object],
    mqtt_link: Callable[..., object],
    start_pump: Callable[..., tuple[Pump, threading.Event]],
    start_worker: Callable[..., Worker],
    responder: Responder,
    ask: Callable[..., Ask],
    device: Device,
    collect: Callable[[Pump, threading.Event, int], dict[str, Answer]],
    eventually: Callable[[Callable[[], bool]], None],
) -> None:
    start_broker("mosquitto", free_port)
    url = f"mqtt://127.0.0.1:{free_port}"
    kept = keeper()
    worker = start_worker(
        mqtt_link(url, "w0"), responders=[msgspec.structs.replace(responder, keep=(kept,))]
    )
    pump, bell = start_pump(mqtt_link(url, device.name))
    wanted = {"7-0": (0.9, 0.99), "7-1": (0.9, 0.6), "7-2": (0.1, 0.99), "7-3": (0.5, 0.02)}
    for ask_id, (score, first) in wanted.items():
        assert pump.offer(ask(ask_id, score=score, first=first))
    answers = collect(pump, bell, len(wanted))
    assert {one.status for one in answers.values()} == {"answered"}
    kept.close()
    pairs = {one.id: one for one in _pairs(tmp_path)}
    assert set(pairs) == {"7-0", "7-3"}
    assert (pairs["7-3"].site, pairs["7-3"].device) == (device.site, device.name)
    assert pairs["7-3"].stream == "cam"
    assert pairs["7-3"].label == 1
    assert worker.counters()["pairs_kept"] == 2
    assert worker.counters()["pairs_cloud_unsure"] == 1
    eventually(lambda: f'{PAIRS}{{model="steps",fate="kept"}} 2' in metrics(worker.figures()))
    told = metrics(worker.figures())
    assert f'{PAIRS}{{model="steps",fate="cloud_unsure"}} 1' in told
    assert f'{PAIRS}{{model="steps",fate="edge_sure"}} 1' in told
    assert 'hedge_worker_pairs_evicted_total{model="steps"} 0' in told
    fates = re.findall(rf"{PAIRS}{{.*}} (\d+)", told)
    assert sum(map(int, fates)) == len(wanted), "each answer has one fate"


def test_a_worker_that_keeps_no_pairs_tells_of_none(responder: Responder) -> None:
    worker = Worker(ScriptedLink(ScriptedBroker()), name="w0", responders=[responder])
    assert "hedge_worker_answers_total" in metrics(worker.figures())
    assert PAIRS not in metrics(worker.figures())


# ---- Rules


def test_a_rule_bounds_each_device_and_each_class() -> None:
    waiting = [
        *(_pair("flood", n, label=0) for n in range(100)),
        *(_pair("a", n, label=1) for n in range(10)),
        *(_pair("b", n, label=2) for n in range(6)),
    ]
    found = chosen(Rule(per_device=8), waiting, [_pair("flood", 1000 + n) for n in range(5)])
    assert _counts(found) == {"flood": 3, "a": 8, "b": 6}
    found = chosen(Rule(device_share=0.4), waiting, [])
    counts = _counts(found)
    assert max(counts.values()) <= 0.4 * sum(counts.values())
    assert counts["a"] == 10
    assert counts["b"] == 6
    found = chosen(Rule(class_share=0.5), waiting, [])
    assert _counts(found) == {"flood": 16, "a": 10, "b": 6}
    assert chosen(Rule(device_share=0.2), waiting, []) == [], "three devices cannot keep to a fifth"


def test_a_rule_asks_for_confidence_devices_streams_and_ids() -> None:
    waiting = [_pair("a", 1, confidence=0.6), _pair("a", 2, confidence=0.95), _pair("b", 2)]
    assert [one.id for one in chosen(Rule(least_confidence=0.9), waiting[:2], [])] == ["2"]
    assert _counts(chosen(Rule(devices=("hall/a",)), waiting, [])) == {"a": 2}
    assert _counts(chosen(Rule(devices=("b", "c")), waiting, [])) == {"b": 1}
    assert len(chosen(Rule(ids=("2",)), waiting, [])) == 2
    assert chosen(Rule(streams=("other",)), waiting, []) == []


def _counts(pairs: list[Pair]) -> dict[str, int]:
    return {one.device: sum(one.device == two.device for two in pairs) for one in pairs}


# ---- The command


def test_the_command_lists_shows_releases_and_drops(
    keeper: Keep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = keeper()
    kept([_answered(f"7-{n}", device=f"d{n % 2}", first=float(n)) for n in range(10)])
    kept.close()
    place, told = tmp_path / "pairs", tmp_path / "told.json"
    assert _hedge("release", place, "--per-device", 3, "--json", told) == 0
    done = msgspec.json.decode(told.read_bytes())
    assert (done["released"], done["quarantined_now"]) == (6, 4)
    assert _hedge("ls", place, "--json", told) == 0
    (folder,) = msgspec.json.decode(told.read_bytes())["folders"]
    assert folder["about"]["name"] == "steps"
    assert {
        (one["device"], one["state"], one["label"], one["pairs"]) for one in folder["pairs"]
    } == {
        ("hall/d0", "quarantined", "rest", 2),
        ("hall/d0", "released", "rest", 3),
        ("hall/d1", "quarantined", "rest", 2),
        ("hall/d1", "released", "rest", 3),
    }
    npz = tmp_path / "look.npz"
    assert _hedge("show", place, "--device", "d1", "--npz", npz) == 0
    with pytest.raises(ConfigError, match=r"--npz .*: is there already"):
        _hedge("show", place, "--npz", npz)
    with np.load(npz, allow_pickle=False) as arrays:
        assert arrays["X"][:, 0].tolist() == [1.0, 3.0, 5.0, 7.0, 9.0]
        assert set(arrays["group"].tolist()) == {"hall/d1"}
    assert _hedge("drop", place, "--id", "7-4", "--device", "hall/d0") == 0
    assert len(_pairs(tmp_path)) == 9
    assert _hedge("drop", place, "--all") == 0
    out = capsys.readouterr().out
    assert "9 pairs dropped, 0 left" in out
    assert "hall/d1" in out


@pytest.mark.parametrize("verb", ["release", "drop"])
def test_nothing_is_released_or_dropped_by_mistake(keeper: Keep, tmp_path: Path, verb: str) -> None:
    kept = keeper()
    kept([_answered("1")])
    kept.close()
    with pytest.raises(ConfigError, match="which pairs"):
        _hedge(verb, tmp_path / "pairs")


def test_a_folder_without_pairs_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        _hedge("ls", tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no pairs"):
        _hedge("ls", tmp_path)


def test_what_is_dropped_cannot_be_read_from_the_disk(keeper: Keep, tmp_path: Path) -> None:
    kept = keeper()
    kept([_answered("1", first=12345.678)])
    kept.close()
    file = tmp_path / "pairs" / ABOUT.contract / FILE
    mark = np.float32(12345.678).tobytes()
    assert mark in file.read_bytes()
    assert _hedge("drop", tmp_path / "pairs", "--all") == 0
    assert mark not in file.read_bytes()
    assert os.listdir(file.parent) == [FILE]  # noqa: PTH208 -- no journal is left either


def test_a_bundle_without_calibration_keeps_no_pairs(
    bundle_dir: Path, bundle_files: Mapping[str, bytes], tmp_path: Path
) -> None:

    bundle: Bundle = load_bundle(bundle_dir)
    bare = write_bundle(
        tmp_path / "bare", msgspec.structs.replace(bundle.manifest, calibration=None), bundle_files
    )
    with pytest.raises(DataError, match="is not calibrated"):
        PairTerms.of(bare, limit=0.5)


def _hedge(*arguments: object) -> int:

    top = argparse.ArgumentParser()
    adapt_command.add_parser(top.add_subparsers())
    options = top.parse_args(["adapt", *map(str, arguments)])
    code: int = options.run(options)
    return code
