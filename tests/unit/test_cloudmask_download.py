"""Fetching the published data from a bucket: what a real server may do wrong, and that nothing comes twice or half."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stormbench.cloudmask import bucket, download
from stormbench.core.errors import RunError, UserError
from tests.conftest import clean_environment
from tests.s3_server import Server, serving

ROOT = "es/cloud_slstr_ds1"
FILES = {f"day/S3A_{number}.hdf": os.urandom(20_000 + number) for number in range(4)} | {"night/S3A_9.hdf": os.urandom(70_000)}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    # a second between attempts would only make the tests long
    monkeypatch.setattr(bucket, "LONGEST_PAUSE_S", 0.01)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    objects = {f"{ROOT}/one-day/{name}": data for name, data in FILES.items()}
    objects |= {f"{ROOT}/inference/S3B_1.hdf": b"s" * 100, f"{ROOT}/pixbox/S3A_P.SEN3/flags_in.nc": b"p" * 50}
    objects[f"{ROOT}/one-day/README"] = b"no data"
    with serving(objects) as running:
        yield running


def fetch(server: Server, folder: Path, **options):
    return download.run(folder, endpoint=server.endpoint, show_progress=False, **{"timeout": 5.0, **options})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_data_set_comes_whole_with_its_folders_and_only_once(server: Server, tmp_path: Path) -> None:
    done = fetch(server, tmp_path)
    assert contents(tmp_path) == FILES
    assert done == {
        "output": str(tmp_path), "prefix": f"{ROOT}/one-day", "files": 5, "bytes": sum(map(len, FILES.values())), "fetched": 5, "kept": 0,
    }  # fmt: skip
    again = fetch(server, tmp_path)
    assert (again["fetched"], again["kept"]) == (0, 5)
    assert sum(server.requests.values()) == 5


def test_both_published_names_of_a_data_set_are_known_and_raw_is_another_form(server: Server, tmp_path: Path) -> None:
    assert fetch(server, tmp_path / "a", dataset="ssts")["prefix"] == f"{ROOT}/inference"
    assert list(contents(tmp_path / "a")) == ["S3B_1.hdf"]
    assert fetch(server, tmp_path / "b", dataset="pixbox", form="raw")["prefix"] == f"{ROOT}/pixbox"
    assert list(contents(tmp_path / "b")) == ["S3A_P.SEN3/flags_in.nc"]
    with pytest.raises(RunError, match="published raw only: --form raw"):
        fetch(server, tmp_path / "c", dataset="pixbox")


@pytest.mark.parametrize("fault", ["drop", "500", "503", "short", "garbled", "too long", "429"])
def test_a_fault_that_passes_is_tried_again_until_the_bytes_are_right(server: Server, tmp_path: Path, fault: str) -> None:
    server.faults = {f"{ROOT}/one-day/{name}": [fault, fault] for name in FILES}
    fetch(server, tmp_path)
    assert contents(tmp_path) == FILES
    assert set(server.requests.values()) == {3}


@pytest.mark.parametrize("fault", ["stall", "slow"])
def test_a_connection_that_all_but_stops_is_made_anew(server: Server, tmp_path: Path, fault: str) -> None:
    server.faults = {f"{ROOT}/one-day/night/S3A_9.hdf": [fault]}
    fetch(server, tmp_path, timeout=0.5)
    assert contents(tmp_path) == FILES


def test_what_had_come_before_a_drop_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    key = f"{ROOT}/one-day/night/S3A_9.hdf"
    server.faults = {key: ["drop"]}
    fetch(server, tmp_path)
    [(asked, what)] = server.ranges
    assert asked == key
    assert 0 < int(what.removeprefix("bytes=").removesuffix("-")) <= 35_000


def test_a_server_that_knows_no_ranges_sends_all_of_it_again(server: Server, tmp_path: Path) -> None:
    server.faults = {f"{ROOT}/one-day/night/S3A_9.hdf": ["drop", "no ranges"]}
    fetch(server, tmp_path)
    assert contents(tmp_path) == FILES


def test_the_next_run_goes_on_where_a_failed_one_stopped(server: Server, tmp_path: Path) -> None:
    key = f"{ROOT}/one-day/night/S3A_9.hdf"
    server.faults = {key: ["drop"]}
    with pytest.raises(RunError, match=r"1 of 5 files .*\n.*S3A_9\.hdf: .*after one try; run the same command again") as error:
        fetch(server, tmp_path, retries=0)
    assert str(error.value).count("\n") == 1
    assert not (tmp_path / "night" / "S3A_9.hdf").exists()
    fetch(server, tmp_path, retries=0)
    assert contents(tmp_path) == FILES
    assert len(server.ranges) == 1


def test_an_object_that_was_replaced_meanwhile_is_not_mixed_from_two(server: Server, tmp_path: Path) -> None:
    key = f"{ROOT}/one-day/night/S3A_9.hdf"
    server.faults = {key: ["drop"]}
    with pytest.raises(RunError):
        fetch(server, tmp_path, retries=0)
    server.objects[key] = os.urandom(70_000)
    fetch(server, tmp_path, retries=0)
    assert (tmp_path / "night" / "S3A_9.hdf").read_bytes() == server.objects[key]
    assert [path.name for path in (tmp_path / "night").iterdir()] == ["S3A_9.hdf"], "what came of the old one is gone"


def test_a_file_that_is_gone_is_told_at_the_end_without_another_try_and_the_others_come(server: Server, tmp_path: Path) -> None:
    key = f"{ROOT}/one-day/day/S3A_2.hdf"
    server.faults = {key: ["404"]}
    with pytest.raises(RunError, match=r"1 of 5 files .* were not fetched, the others were:\n.*S3A_2\.hdf: the server answered 404"):
        fetch(server, tmp_path)
    assert server.requests[key] == 1
    assert len(contents(tmp_path)) == 4


def test_no_more_streams_than_asked_for(server: Server, tmp_path: Path) -> None:
    fetch(server, tmp_path / "one", num_streams=1)
    assert server.most_at_once == 1
    fetch(server, tmp_path / "three", num_streams=3)
    assert 1 < server.most_at_once <= 3


def test_a_listing_that_fails_for_a_while_is_asked_for_again(server: Server, tmp_path: Path) -> None:
    server.listing_faults = ["500", "503"]
    assert fetch(server, tmp_path)["files"] == 5


def test_the_first_files_by_name_only(server: Server, tmp_path: Path) -> None:
    fetch(server, tmp_path, num_files=2)
    assert list(contents(tmp_path)) == ["day/S3A_0.hdf", "day/S3A_1.hdf"]


def test_a_key_that_leads_out_of_the_folder_is_refused(server: Server, tmp_path: Path) -> None:
    server.objects[f"{ROOT}/one-day/../../escaped.hdf"] = b"x"
    with pytest.raises(RunError, match="leads out of the output folder"):
        fetch(server, tmp_path / "deep" / "out")
    assert contents(tmp_path) == {}


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"127\.0\.0\.1:9/.*refused"):
        download.run(tmp_path, endpoint="http://127.0.0.1:9", retries=0, show_progress=False)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"dataset": "oneday"}, "--dataset oneday: must be one of one-day, ssts, pixbox; did you mean one-day?"),
        ({"form": "hdf"}, "--form hdf: must be one of converted, raw"),
        ({"num_streams": 0}, "--num_streams 0: must be at least 1"),
        ({"timeout": 0.0}, "--timeout 0: must be above 0"),
        ({"endpoint": "s3.echo"}, "--endpoint s3.echo: must be an address"),
    ],
)
def test_wrong_options_are_one_sentence(tmp_path: Path, options: dict, told: str) -> None:
    with pytest.raises(UserError) as error:
        download.run(tmp_path, **options)
    assert str(error.value).startswith(told)


def test_too_small_a_disk_is_told_before_the_first_byte(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="choose another folder, or fewer files"):
        fetch(server, tmp_path)
    assert not server.requests


def test_killed_in_the_middle_the_next_run_ends_with_the_same_files(server: Server, tmp_path: Path) -> None:
    key = f"{ROOT}/one-day/night/S3A_9.hdf"
    server.faults = {key: ["stall"]}
    call = functools.partial("from stormbench.cloudmask import download; download.run({!r}, endpoint={!r}, show_progress=False)".format)
    process = subprocess.Popen([sys.executable, "-c", call(str(tmp_path), server.endpoint)], env=clean_environment(no_proxy="*"))
    deadline = time.monotonic() + 60
    while not list((tmp_path / "night").glob(".S3A_9*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    fetch(server, tmp_path)
    assert contents(tmp_path) == FILES
