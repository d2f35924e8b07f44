"""`hedge outbox`: look into what a device still owes, take it out, or drop it.

Looking needs no permission of the daemon that owns the outbox: it is a moment's view.
"""

from __future__ import annotations

import argparse
import itertools
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from msgspec import Struct

from ..models.errors import ConfigError, UplinkError
from ..telemetry.clock import boottime_ns
from ..uplink import wire
from ..uplink.outbox import stored
from ..uplink.outbox.dead_letters import DeadLetters
from ..uplink.outbox.durable_outbox import DEAD, DurableOutbox
from ..uplink.outbox.lifetime import Lifetime, boot_id, synchronised_wall_ns
from ..uplink.outbox.log_files import TAIL, segments_of
from ..uplink.outbox.outbox import Record
from ..uplink.outbox.owner import LOCK, is_owned
from ..uplink.outbox.quarantine import QUARANTINE
from ..uplink.outbox.recovery import Recovery, read, survey
from .config import OUTBOX, load_config
from .report import check_place, write_json

_ALL = 1 << 62


State = Literal["waiting", "sent", "dead", "damaged"]


class AskLine(Struct, frozen=True, kw_only=True):
    """One ask: ``state`` is waiting, sent (and no answer yet), dead, or damaged.

    ``final``: its user has the final outcome. ``left_s`` until it is given up; None: never.
    """

    id: str
    state: State
    sends: int
    final: bool
    size_bytes: int
    left_s: float | None = None
    age_s: float | None = None
    stream: str | None = None
    kind: str | None = None
    session: int | None = None
    model: str | None = None
    contract: str | None = None
    entry: str | None = None
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    score: float | None = None
    score_name: str | None = None
    probs: tuple[float, ...] | None = None


class Listing(Struct, frozen=True, kw_only=True):
    """The asks of an outbox, in the order of sending, then the dead ones."""

    outbox: str
    asks: tuple[AskLine, ...]


class Figures(Struct, frozen=True, kw_only=True):
    """How full an outbox is, and in which state.

    ``final_owed`` asks have users that wait for their final outcome. ``lost`` are records
    that are missing and were never counted: at most so many asks.
    """

    outbox: str
    owned: bool
    asks: int
    sent: int
    final_owed: int
    asks_bytes: int
    files: int
    files_bytes: int
    dead: int
    quarantined: int
    damaged_files: int
    lost: int


class Verified(Struct, frozen=True, kw_only=True):
    """What a full reading found; ``sound`` if nothing is damaged or missing."""

    outbox: str
    sound: bool
    files: int
    asks: int
    damaged_files: tuple[int, ...]
    gaps: tuple[tuple[int, int], ...]
    lost: int
    unread: int


def ls(folder: Path, *, limit: int | None = None) -> Listing:
    """Return the asks of an outbox.

    Raises:
        UplinkError: there is none.
    """
    asks = (line for line, _ in _asks(folder, survey(_present(folder)), limit=limit))
    return Listing(outbox=str(folder), asks=tuple(asks))


def stat(folder: Path) -> Figures:
    """Return how full an outbox is.

    Raises:
        UplinkError: there is none.
    """
    found = survey(_present(folder))
    return Figures(
        outbox=str(folder),
        owned=is_owned(folder),
        asks=len(found.asks),
        sent=sum(ask_id in found.sends for ask_id in found.asks),
        final_owed=sum(not kept.final for kept in found.asks.values()),
        asks_bytes=sum(kept.size_bytes for kept in found.asks.values()),
        files=len(found.row.files),
        files_bytes=sum(file.size_bytes for file in found.row.files),
        dead=sum(1 for _ in _letters(folder).items()),
        quarantined=sum(1 for _ in (folder / QUARANTINE).glob("*.log")),
        damaged_files=len(found.row.damaged),
        lost=found.lost + len(found.unread),
    )


def verify(folder: Path) -> Verified:
    """Read every byte of an outbox, and every ask in it.

    Raises:
        UplinkError: there is none.
    """
    found = survey(_present(folder))
    damaged = sum(line.state == "damaged" for line, _ in _asks(folder, found))
    return Verified(
        outbox=str(folder),
        sound=not (found.row.lost or found.unread or damaged),
        files=len(found.row.files),
        asks=len(found.asks) - damaged,
        damaged_files=tuple(sorted(found.row.damaged)),
        gaps=tuple((gap.begin.number, gap.end.number) for gap in found.row.lost),
        lost=found.lost,
        unread=len(found.unread) + damaged,
    )


def export(folder: Path, out: Path) -> int:
    """Write all asks to the new folder ``out``; return how many.

    ``asks.jsonl`` has one `AskLine` per line, ``bodies.npz`` the body of each under its id.

    Raises:
        UplinkError: there is no outbox.
        ConfigError: ``out`` is there already, or cannot be written.
    """
    found = survey(_present(folder))
    encode = msgspec.json.Encoder().encode
    count = 0
    try:
        out.mkdir(mode=0o700, parents=True)
        with (
            (out / "asks.jsonl").open("xb") as lines,
            zipfile.ZipFile(out / "bodies.npz", "x", zipfile.ZIP_STORED) as bodies,
        ):
            for line, record in _asks(folder, found):
                lines.write(encode(line) + b"\n")
                count += 1
                if record is not None:
                    with bodies.open(f"{line.id}.npy", "w", force_zip64=True) as stream:
                        np.lib.format.write_array(
                            stream, wire.tensor(record.request), allow_pickle=False
                        )
    except OSError as error:
        raise ConfigError(f"cannot be written: {error}", where=str(out)) from error
    return count


def drop(folder: Path, *, ids: frozenset[str] | None = None, dead: bool = False) -> int:
    """Give up asks, all of them or those named, or the dead letters; return how many went.

    Raises:
        UplinkError: there is no outbox, a process owns it, or the disk refuses.
    """
    letters = _letters(_present(folder))
    if dead:
        return sum(letters.drop(ask_id) for ask_id, _ in list(letters.items()))
    before = set(survey(folder).asks)
    wanted = before if ids is None else before & ids
    outbox = DurableOutbox(folder, max_count=_ALL, max_bytes=_ALL)
    outbox.settle(dict.fromkeys(wanted, "evicted"))
    outbox.final(wanted)
    outbox.close()
    left = wanted & survey(folder).asks.keys()
    if left:
        raise UplinkError(f"{len(left)} asks could not be dropped", where=str(folder))
    return len(wanted) + sum(letters.drop(ask_id) for ask_id in (ids or ()))


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "outbox",
        help="look into what a device still owes, export it, or drop it",
        description="Look into a device's outbox. PLACE is its folder, or the device's "
        "configuration. Only drop needs the daemon to have ended.",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    one = _verb(verbs, "ls", "list the asks in the order of sending, then the dead ones")
    one.add_argument("--limit", type=int, metavar="N", help="only the first N")
    one.set_defaults(run=_run_ls)
    _verb(verbs, "stat", "say how full it is").set_defaults(run=_run_stat)
    one = _verb(verbs, "verify", "read and check everything; exits 1 if something is damaged")
    one.set_defaults(run=_run_verify)
    one = _verb(verbs, "export", "write all asks as JSON lines, and their bodies as npz")
    one.add_argument("out", type=Path, metavar="FOLDER", help="a new folder")
    one.set_defaults(run=_run_export)
    one = _verb(verbs, "drop", "give asks up for good")
    which = one.add_mutually_exclusive_group(required=True)
    which.add_argument("--id", action="append", metavar="ID", help="this one; may be repeated")
    which.add_argument("--dead", action="store_true", help="all that were laid aside as dead")
    which.add_argument("--all", action="store_true", help="all that wait")
    one.set_defaults(run=_run_drop)


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, about: str
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=about)
    parser.add_argument("place", type=Path, metavar="PLACE")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write what is found there too")
    return parser


class _Count(Struct, frozen=True, kw_only=True):
    outbox: str
    asks: int


def _run_ls(options: argparse.Namespace) -> int:
    check_place(options.json)
    found = ls(_folder(options.place), limit=options.limit)
    write_json(options.json, found)
    print(
        f"{'id':<24} {'stream':<12} {'state':<8} {'sends':>5} {'final':<5} {'bytes':>8} {'left':>8}"
    )
    for one in found.asks:
        left = "-" if one.left_s is None else f"{one.left_s:.0f} s"
        final = "yes" if one.final else "owed"
        print(
            f"{one.id:<24} {one.stream or '-':<12} {one.state:<8} {one.sends:>5} {final:<5} "
            f"{one.size_bytes:>8} {left:>8}"
        )
    return 0


def _run_stat(options: argparse.Namespace) -> int:
    check_place(options.json)
    found = stat(_folder(options.place))
    write_json(options.json, found)
    owner = "a running process owns it" if found.owned else "nobody owns it now"
    print(f"{found.outbox}: {owner}")
    print(f"  asks         {found.asks} ({found.asks_bytes} bytes), {found.sent} of them sent")
    print(f"  final owed   {found.final_owed}")
    print(f"  files        {found.files} ({found.files_bytes} bytes)")
    print(f"  dead         {found.dead}")
    print(f"  quarantined  {found.quarantined} files")
    print(f"  damaged      {found.damaged_files} files, at most {found.lost} asks lost")
    return 0


def _run_verify(options: argparse.Namespace) -> int:
    check_place(options.json)
    found = verify(_folder(options.place))
    write_json(options.json, found)
    print(f"{found.outbox}: {found.asks} asks in {found.files} files read")
    if found.sound:
        print("  sound")
        return 0
    print(f"  at most {found.lost} asks are lost, {found.unread} cannot be read")
    for begin, end in found.gaps:
        print(f"  frames {begin} to {end - 1} are missing")
    return 1


def _run_export(options: argparse.Namespace) -> int:
    check_place(options.json)
    folder = _folder(options.place)
    count = export(folder, options.out)
    write_json(options.json, _Count(outbox=str(folder), asks=count))
    print(f"{options.out}: {count} asks")
    return 0


def _run_drop(options: argparse.Namespace) -> int:
    check_place(options.json)
    folder = _folder(options.place)
    ids = None if options.id is None else frozenset(options.id)
    count = drop(folder, ids=ids, dead=options.dead)
    write_json(options.json, _Count(outbox=str(folder), asks=count))
    print(f"{folder}: {count} asks dropped")
    return 0


def _folder(place: Path) -> Path:
    """Return the outbox at ``place``, or of the device whose configuration it is."""
    if place.is_dir():
        return place
    config = load_config(place, environ=os.environ)
    return place.resolve().parent / config.device.state_dir / OUTBOX


def _present(folder: Path) -> Path:
    if not any((folder / name).exists() for name in (LOCK, TAIL)) and not segments_of(folder):
        raise UplinkError("no outbox here", where=str(folder))
    return folder


def _letters(folder: Path) -> DeadLetters:
    return DeadLetters(folder / DEAD, max_bytes=_ALL)


_LOOKS = 5


def _asks(
    folder: Path, found: Recovery, *, limit: int | None = None
) -> Iterator[tuple[AskLine, Record | None]]:
    """Yield each ask with its record, read one at a time; a damaged one has none.

    What the device settles meanwhile is left out.
    """
    life = Lifetime(
        last=found.stamp,
        seen_ns=found.seen_ns,
        clock=boottime_ns,
        boot=boot_id(),
        wall=synchronised_wall_ns,
    )
    letters = ((ask_id, payload, None) for ask_id, payload in _letters(folder).items())
    living = ((one, read(folder, found.asks[one]), found.asks[one]) for one in found.order)
    for ask_id, payload, kept in itertools.islice(itertools.chain(living, letters), limit):
        record = None if payload is None else _record(payload, life.ahead_ns)
        if record is None and kept is not None and is_owned(folder):
            is_there, record = _looked_again(folder, ask_id, life)
            if not is_there:
                continue
        sends = found.sends.get(ask_id, 0)
        state: State = "dead" if kept is None else "sent" if sends else "waiting"
        line = AskLine(
            id=ask_id,
            state="damaged" if record is None else state,
            sends=sends,
            final=kept is None or kept.final,
            size_bytes=len(payload or b""),
        )
        yield (line if record is None else _told(line, record)), record


def _looked_again(folder: Path, ask_id: str, life: Lifetime) -> tuple[bool, Record | None]:
    """Return whether an ask is still there, and its record; its owner settles and moves asks."""
    for _ in range(_LOOKS):
        kept = survey(folder).asks.get(ask_id)
        if kept is None:
            return False, None
        payload = read(folder, kept)
        record = None if payload is None else _record(payload, life.ahead_ns)
        if record is not None:
            return True, record
    return True, None


def _record(payload: bytes, ahead_ns: int) -> Record | None:
    try:
        return stored.unpack(payload, ahead_ns=ahead_ns)
    except ValueError:
        return None


def _told(line: AskLine, record: Record) -> AskLine:
    """Return the line with what the record says."""
    now_ns, request, opinion = boottime_ns(), record.request, record.request.opinion
    deadline_ns = record.deadline_ns
    return msgspec.structs.replace(
        line,
        left_s=None if deadline_ns is None else (deadline_ns - now_ns) / 1e9,
        age_s=(now_ns - record.asked_at_ns) / 1e9,
        stream=record.stream,
        kind=request.kind,
        session=request.session,
        model=request.model,
        contract=request.contract,
        entry=request.entry,
        dtype=request.dtype,
        shape=request.shape,
        score=record.score if opinion is None else opinion.score,
        score_name=None if opinion is None else opinion.score_name,
        probs=None if opinion is None else tuple(np.frombuffer(opinion.probs, "<f4").tolist()),
    )
