"""Pictures that come into a folder: each once, whole, in order, whatever becomes of the folder."""

from __future__ import annotations

import io
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hedge.models.errors import ConfigError, DataError, SourceError
from hedge.runtime.sources import folder_look
from hedge.runtime.sources.images import ImagesReader
from hedge.runtime.sources.live import Live
from hedge.runtime.sources.options import ImagesSource
from hedge.runtime.sources.source import Captured
from hedge.runtime.sources.watching import Arrivals

image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
pytest.importorskip("watchdog", reason="watchdog is not installed")

_LONG_AGO = 1_600_000_000
_SOON_S = 20.0


def png(value: int, *, size: tuple[int, int] = (3, 2)) -> bytes:
    """Return a picture whose pixels are all (value, value + 1, value + 2)."""
    out = io.BytesIO()
    image.new("RGB", size, (value, value + 1, value + 2)).save(out, "PNG")
    return out.getvalue()


def put(folder: Path, name: str, value: int) -> Path:
    """Put a picture there by a rename, as a careful program does."""
    hidden = folder / f".{name}.part"
    hidden.write_bytes(png(value))
    return hidden.rename(folder / name)


def put_long_ago(folder: Path, name: str, value: int) -> None:
    """Put a picture there that was last written to years ago."""
    file = put(folder, name, value)
    os.utime(file, (_LONG_AGO, _LONG_AGO))


def taken(reader: ImagesReader, count: int) -> list[Captured]:
    """Return the next ``count`` pictures, and see that no more follow at once."""
    found: list[Captured] = []
    until = time.monotonic() + _SOON_S
    while len(found) < count and time.monotonic() < until:
        found += reader.read()
    assert len(found) == count, f"{len(found)} of {count} pictures came"
    return found


def values(captured: list[Captured]) -> list[int]:
    return [int(one.data[0, 0, 0]) for one in captured]


def nothing_comes(reader: ImagesReader) -> bool:
    return not any(reader.read() for _ in range(2))


Open = Callable[..., ImagesReader]
Eventually = Callable[[Callable[[], bool]], None]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    readers: list[ImagesReader] = []

    def open_(*, batch: int = 4096, path: str = "in", **options: object) -> ImagesReader:
        (tmp_path / path).mkdir(exist_ok=True)
        asked = ImagesSource(path=path, **options)  # type: ignore[arg-type]
        reader = ImagesReader(asked, base=tmp_path, batch=batch)
        readers.append(reader)
        reader.open()
        return reader

    yield open_
    for reader in readers:
        reader.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.mark.parametrize("poll_s", [None, 0.05])
def test_what_is_there_comes_first_by_name_and_then_what_comes_in_order(
    folder: Path, opened: Open, poll_s: float | None
) -> None:
    for name, value in (("b.png", 2), ("a.png", 1), ("c.PNG", 3)):
        put_long_ago(folder, name, value)
    (folder / "notes.txt").write_text("no picture")
    reader = opened(poll_s=poll_s)
    assert values(taken(reader, 3)) == [1, 2, 3]
    put(folder, "0.png", 7)
    assert values(taken(reader, 1)) == [7]
    put(folder, "00.png", 8)
    assert values(taken(reader, 1)) == [8]
    assert nothing_comes(reader)


def test_a_folder_of_other_suffixes_says_so_once(
    folder: Path, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "a.heic").write_bytes(b"picture")
    reader = opened()
    assert nothing_comes(reader)
    for number in range(20):
        (folder / f"{number}.heic").write_bytes(b"picture")
    assert nothing_comes(reader)
    (said,) = caplog.messages
    assert "heic is passed over: the source's suffixes are .jpg .jpeg .png" in said


def test_files_of_other_suffixes_that_come_again_and_again_are_told_once(
    folder: Path, opened: Open, caplog: pytest.LogCaptureFixture, eventually: Eventually
) -> None:
    reader = opened()
    assert nothing_comes(reader)
    for number in range(20):
        (folder / f"{number}.heic").write_bytes(b"picture")
    eventually(lambda: len(caplog.messages) == 1)


def test_what_is_renamed_to_its_suffix_is_not_complained_of(
    folder: Path, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    reader = opened()
    for number in range(20):
        (folder / "a.part").write_bytes(png(number))
        (folder / "a.part").rename(folder / f"{number}.png")
        assert values(taken(reader, 1)) == [number]
    assert caplog.messages == []


def test_a_picture_says_which_file_it_was_and_when_it_was_taken(folder: Path, opened: Open) -> None:
    put_long_ago(folder, "a.png", 9)
    begun_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    (found,) = taken(opened(), 1)
    assert found.meta == {"file": "a.png"}
    assert begun_ns <= found.taken_at_ns <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert found.data.shape == (2, 3, 3)
    assert found.data.dtype == np.uint8
    assert found.data[1, 2].tolist() == [9, 10, 11]


def test_without_existing_only_what_comes_later_is_read(folder: Path, opened: Open) -> None:
    put_long_ago(folder, "a.png", 1)
    reader = opened(existing=False)
    assert nothing_comes(reader)
    put(folder, "b.png", 2)
    assert values(taken(reader, 1)) == [2]


def test_a_file_that_is_being_written_to_is_not_read(folder: Path, opened: Open) -> None:
    reader = opened()
    whole = png(5, size=(64, 48))
    with (folder / "a.png").open("wb", buffering=0) as file:
        for at in range(0, len(whole), len(whole) // 4):
            file.write(whole[at : at + len(whole) // 4])
            assert reader.read() == ()
    assert values(taken(reader, 1)) == [5]
    assert nothing_comes(reader)


def test_a_name_is_ready_only_when_it_has_stood_still() -> None:
    arrivals = Arrivals(settle_s=0.2, most=3)
    for name in ("a", "b", "a"):
        arrivals.add(name)
    assert arrivals.take(wait_s=0) is None
    until = time.monotonic() + _SOON_S
    while (first := arrivals.take(wait_s=0.01)) is None:
        assert time.monotonic() < until
    second = arrivals.take(wait_s=1)
    assert second is not None
    assert [first.name, second.name] == ["b", "a"], "what changed last comes last"


def test_names_beyond_the_bound_are_known_to_be_missed() -> None:
    arrivals = Arrivals(settle_s=0, most=2)
    for name in ("a", "b", "a", "c", "d"):
        arrivals.add(name)
    assert arrivals.missed
    assert not arrivals.catch_up(), "there are names before them"
    assert [one.name for one in (arrivals.take(wait_s=0), arrivals.take(wait_s=0)) if one] == [
        "b",
        "a",
    ]
    assert arrivals.catch_up()
    arrivals.add("e")
    assert arrivals.take(wait_s=0) is not None


def test_a_file_that_is_half_written_when_it_is_found_waits_for_its_end(
    folder: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_look, "_YOUNG_NS", 3_000_000_000)  # however slow this machine is
    whole = png(5, size=(64, 48))
    with (folder / "a.png").open("wb", buffering=0) as file:
        file.write(whole[:40])
        reader = opened()
        assert not reader.read()
        file.write(whole[40:])
    assert values(taken(reader, 1)) == [5]
    assert nothing_comes(reader)


def test_a_young_file_that_nobody_writes_to_any_more_is_read_all_the_same(
    folder: Path, opened: Open
) -> None:
    put(folder, "a.png", 4)
    assert values(taken(opened(), 1)) == [4]


def test_a_file_from_the_future_is_read_as_on_a_board_without_a_clock(
    folder: Path, opened: Open
) -> None:
    file = put(folder, "a.png", 4)
    os.utime(file, (4e9, 4e9))
    assert values(taken(opened(), 1)) == [4]


def test_a_file_that_is_written_anew_is_a_new_picture(folder: Path, opened: Open) -> None:
    reader = opened()
    (folder / "latest.png").write_bytes(png(1))
    assert values(taken(reader, 1)) == [1]
    (folder / "latest.png").write_bytes(png(2, size=(5, 5)))
    assert values(taken(reader, 1)) == [2]


def test_a_file_that_was_read_and_is_renamed_is_not_read_again(folder: Path, opened: Open) -> None:
    reader = opened()
    file = put(folder, "a.png", 1)
    taken(reader, 1)
    file.rename(folder / "read-a.png")
    assert nothing_comes(reader)


def test_files_that_are_gone_again_are_passed_over(folder: Path, opened: Open) -> None:
    reader = opened()
    for value in range(5):
        put(folder, f"{value}.png", value)
    for value in (0, 1, 3):
        (folder / f"{value}.png").unlink()
    assert values(taken(reader, 2)) == [2, 4]


def test_a_file_that_is_no_picture_fails_by_name_and_the_next_one_comes(
    folder: Path, opened: Open
) -> None:
    (folder / "a.png").write_bytes(b"no picture at all")
    (folder / "b.png").write_bytes(png(2)[:40])
    (folder / "c.png").write_bytes(b"")
    put(folder, "d.png", 4)
    for name in "abcd":
        os.utime(folder / f"{name}.png", (_LONG_AGO, _LONG_AGO))
    reader = opened()
    for name in "abc":
        with pytest.raises(DataError, match=rf"in/{name}\.png: ") as caught:
            reader.read()
        assert "\n" not in str(caught.value)
    assert values(taken(reader, 1)) == [4]
    assert nothing_comes(reader)


def test_links_pipes_folders_and_devices_are_refused_and_never_wait(
    folder: Path, opened: Open, tmp_path: Path
) -> None:
    secret = put(tmp_path, "secret.png", 1)
    (folder / "a.png").symlink_to(secret)
    os.mkfifo(folder / "b.png")
    (folder / "c.png").mkdir()
    os.utime(folder / "b.png", (_LONG_AGO, _LONG_AGO))
    os.utime(folder / "c.png", (_LONG_AGO, _LONG_AGO))
    os.utime(folder / "a.png", (_LONG_AGO, _LONG_AGO), follow_symlinks=False)
    reader = opened()
    for name in "abc":
        with pytest.raises(DataError, match=rf"{name}\.png: is a link"):
            reader.read()
    assert nothing_comes(reader)


def test_a_file_beyond_the_bound_is_refused_unread(folder: Path, opened: Open) -> None:
    with (folder / "a.png").open("wb") as file:
        file.truncate(1 << 40)
    os.utime(folder / "a.png", (_LONG_AGO, _LONG_AGO))
    with pytest.raises(DataError, match=r"a\.png: has 1099511627776 bytes"):
        opened().read()


def test_pictures_are_removed_once_they_are_read_and_what_is_no_good_stays(
    folder: Path, opened: Open
) -> None:
    put_long_ago(folder, "a.png", 1)
    (folder / "b.png").write_bytes(b"broken")
    os.utime(folder / "b.png", (_LONG_AGO, _LONG_AGO))
    reader = opened(remove=True)
    assert values(taken(reader, 1)) == [1]
    with pytest.raises(DataError):
        reader.read()
    put(folder, "c.png", 3)
    assert values(taken(reader, 1)) == [3]
    assert [file.name for file in folder.iterdir()] == ["b.png"]


def test_only_the_region_is_kept(folder: Path, opened: Open) -> None:
    pixels = np.arange(10 * 8 * 3, dtype=np.uint8).reshape(8, 10, 3)
    image.fromarray(pixels).save(folder / "a.png")
    os.utime(folder / "a.png", (_LONG_AGO, _LONG_AGO))
    (found,) = taken(opened(region=(0.2, 0.25, 0.5, 0.5)), 1)
    np.testing.assert_array_equal(found.data, pixels[2:6, 2:7])


def test_a_region_outside_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a part of the picture"):
        ImagesReader(ImagesSource(path="in", region=(0.5, 0.0, 0.75, 1.0)), base=tmp_path)


def test_a_folder_that_is_not_there_says_so(tmp_path: Path) -> None:
    reader = ImagesReader(ImagesSource(path="nowhere"), base=tmp_path)
    with pytest.raises(SourceError, match=r"nowhere: cannot be opened: No such file .*make this"):
        reader.open()
    reader.close()
    reader.close()


@pytest.mark.parametrize("poll_s", [None, 0.05])
def test_a_folder_that_is_made_again_is_read_on_and_nothing_twice(
    tmp_path: Path, folder: Path, opened: Open, poll_s: float | None
) -> None:
    put_long_ago(folder, "a.png", 1)
    reader = opened(poll_s=poll_s)
    assert values(taken(reader, 1)) == [1]
    away = folder.rename(tmp_path / "away")
    with pytest.raises(SourceError, match="in: has gone"):
        reader.read()
    reader.close()
    with pytest.raises(SourceError, match="cannot be opened"):
        reader.open()
    reader.close()
    put(away, "b.png", 2)
    away.rename(folder)
    reader.open()
    assert values(taken(reader, 1)) == [2]
    put(folder, "c.png", 3)
    assert values(taken(reader, 1)) == [3]


def test_another_folder_in_its_place_is_noticed(tmp_path: Path, folder: Path, opened: Open) -> None:
    reader = opened()
    folder.rename(tmp_path / "away")
    folder.mkdir()
    with pytest.raises(SourceError, match="is another folder now"):
        reader.read()


@pytest.mark.parametrize("existing", [True, False])
def test_what_comes_while_the_folder_is_away_for_the_first_time_is_read(
    tmp_path: Path,
    existing: bool,  # noqa: FBT001 -- a parameter
) -> None:
    reader = ImagesReader(ImagesSource(path="in", existing=existing), base=tmp_path)
    with pytest.raises(SourceError):
        reader.open()
    reader.close()
    (tmp_path / "in").mkdir()
    put(tmp_path / "in", "a.png", 6)
    with closing(reader):
        reader.open()
        assert values(taken(reader, 1)) == [6]


def test_more_files_than_are_kept_come_all_the_same_each_once(folder: Path, opened: Open) -> None:
    for value in range(30):
        put_long_ago(folder, f"{value:03}.png", value)
    reader = opened(batch=7)
    assert values(taken(reader, 30)) == list(range(30))
    for value in range(30, 90):
        put(folder, f"{value:03}.png", value)
    assert values(taken(reader, 60)) == list(range(30, 90))
    assert nothing_comes(reader)


def test_hundreds_of_files_leave_no_more_names_in_memory_than_are_bounded(
    folder: Path, opened: Open
) -> None:
    reader = opened(batch=50)
    for value in range(500):
        (folder / f"{value:04}.png").write_bytes(png(value % 200))
    found = values(taken(reader, 500))
    assert sorted(found) == sorted(value % 200 for value in range(500))
    assert len(reader._arrivals._waiting) <= 50


def test_names_of_any_bytes_are_read_and_shown_harmlessly(folder: Path, opened: Open) -> None:
    name = b"\xff\x1b[31m.png"
    file = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
    file.write_bytes(png(3))
    os.utime(file, (_LONG_AGO, _LONG_AGO))
    (found,) = taken(opened(), 1)
    assert found.meta is not None
    assert found.meta["file"].isprintable()
    found.meta["file"].encode()


def test_a_stream_of_it_is_back_after_the_folder_was_away(
    tmp_path: Path, folder: Path, eventually: Callable[..., None]
) -> None:
    reader = ImagesReader(ImagesSource(path="in"), base=tmp_path)
    bell = threading.Event()
    live = Live(reader, name="door", policy="every", buffer=4, ring=bell.set)
    found: list[NDArray[np.uint8]] = []

    def came(count: int) -> bool:
        while (captured := live.poll(0)) is not None:
            found.append(captured.data)
        return len(found) == count

    with closing(live):
        put(folder, "a.png", 1)
        eventually(lambda: came(1))
        shutil.rmtree(folder)
        eventually(lambda: live.state().lost > 0)
        folder.mkdir()
        put(folder, "b.png", 2)
        eventually(lambda: came(2))
        assert [int(data[0, 0, 0]) for data in found] == [1, 2]
    assert not [one for one in threading.enumerate() if one.name.startswith("hedge-door")]
