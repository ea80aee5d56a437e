"""Unpacking zipped products: whole or not at all, the rest done when some fail, and nothing outside the folder."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from stormbench.cloudmask import extract
from stormbench.core.errors import RunError, UserError
from tests.conftest import clean_environment

NAMES = [f"S3A_SL_1_RBT____2021010{day}T101112.SEN3" for day in (1, 2, 3)]


def product(folder: Path, name: str, *, size: int = 5000, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """Make a zip with one product folder of three files."""
    path = folder / f"{name.removesuffix('.SEN3')}.zip"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for part in ("xfdumanifest.xml", "S1_radiance_an.nc", "deep/flags_in.nc"):
            archive.writestr(f"{name}/{part}", os.urandom(size // 2) + part.encode() * (size // 20))
    return path


@pytest.fixture
def zips(tmp_path: Path) -> list[Path]:
    (tmp_path / "in").mkdir()
    return [product(tmp_path / "in", name) for name in NAMES]


def listed(tmp_path: Path, paths: list[Path]) -> Path:
    path = tmp_path / "list.txt"
    path.write_text("# of the archive\n\n" + "".join(f"{each}\n" for each in paths))
    return path


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return every file below a folder with its bytes and time."""
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()}


def unpacked(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def test_every_zip_of_the_list_becomes_its_folder(tmp_path: Path, zips: list[Path]) -> None:
    done = extract.run(listed(tmp_path, zips), tmp_path / "out", workers=2, progress=False)
    assert (done["extracted"], done["skipped"]) == (3, 0)
    expected = {name: data for path in zips for name, data in unpacked(path).items()}
    assert {name: data for name, (data, _) in contents(tmp_path / "out").items()} == expected


def test_what_is_complete_is_skipped_and_what_is_damaged_is_made_again(tmp_path: Path, zips: list[Path]) -> None:
    out = tmp_path / "out"
    extract.run(listed(tmp_path, zips), out, workers=1, progress=False)
    before = contents(out)
    inode = (out / NAMES[1]).stat().st_ino
    (out / NAMES[0] / "S1_radiance_an.nc").write_bytes(b"cut")
    (out / NAMES[2] / "xfdumanifest.xml").unlink()
    done = extract.run(listed(tmp_path, zips), out, workers=1, progress=False)
    assert (done["extracted"], done["skipped"]) == (2, 1)
    assert contents(out) == before
    assert (out / NAMES[1]).stat().st_ino == inode


def test_relative_paths_count_from_the_list_too_and_a_folder_is_a_list(tmp_path: Path, zips: list[Path]) -> None:
    path = tmp_path / "in" / "list.txt"
    path.write_text(f"{zips[0].name}\n{zips[0].name}\n")
    assert extract.run(path, tmp_path / "one", workers=1, progress=False)["extracted"] == 1
    assert extract.run(tmp_path / "in", tmp_path / "all", workers=1, progress=False)["extracted"] == 3


def test_a_zip_without_a_folder_of_its_own_gets_one(tmp_path: Path) -> None:
    path = tmp_path / "S3B_X.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("S1_radiance_an.nc", b"a")
    extract.run(listed(tmp_path, [path]), tmp_path / "out", workers=1, progress=False)
    assert list(contents(tmp_path / "out")) == ["S3B_X.SEN3/S1_radiance_an.nc"]


def corrupt(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[200:260] = bytes(60)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (Path.unlink, "no such file"),
        (corrupt, "can't be unpacked"),
        (lambda path: path.write_bytes(path.read_bytes()[:-300]), "can't be unpacked"),
        (lambda path: path.write_bytes(b""), "can't be unpacked"),
        (lambda path: path.write_text("no zip at all"), "can't be unpacked"),
    ],
    ids=["missing", "corrupt", "cut", "empty", "text"],
)
def test_a_broken_zip_is_named_at_the_end_and_the_others_are_done(tmp_path: Path, zips: list[Path], spoil, told: str) -> None:
    spoil(zips[1])
    with pytest.raises(RunError) as error:
        extract.run(listed(tmp_path, zips), tmp_path / "out", workers=2, progress=False)
    text = str(error.value)
    assert text.startswith("1 of 3 zip files of ")
    assert f"\n  {zips[1]}: {told}" in text
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [NAMES[0], NAMES[2]]


LINK = zipfile.ZipInfo(f"{NAMES[0]}/link")
LINK.external_attr = (stat.S_IFLNK | 0o777) << 16


@pytest.mark.parametrize(
    "member",
    ["../escaped", f"{NAMES[0]}/../../escaped", "/escaped", f"{NAMES[0]}\\..\\escaped", "C:/escaped", LINK],
    ids=["parent", "parent later", "absolute", "backslash", "drive", "link"],
)
def test_a_member_that_leads_out_of_the_folder_stops_its_zip_before_anything_is_written(tmp_path: Path, member: str) -> None:
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{NAMES[0]}/S1_radiance_an.nc", b"a")
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(RunError, match="nothing of it was unpacked"):
        extract.run(listed(tmp_path, [path]), tmp_path / "deep" / "out", workers=1, progress=False)
    assert list((tmp_path / "deep" / "out").iterdir()) == []
    assert not (tmp_path / "escaped").exists()
    assert not (tmp_path / "deep" / "escaped").exists()


def test_a_member_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/x", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a/x", b"2")
    with pytest.raises(RunError, match="is there twice"):
        extract.run(listed(tmp_path, [path]), tmp_path / "out", workers=1, progress=False)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: None, "no such file or directory"),
        (lambda path: path.write_text("# nothing\n\n"), "names no zip file"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), "is no text"),
        (lambda path: path.mkdir(), "names no zip file"),
    ],
)
def test_a_list_that_names_nothing_is_the_users_mistake(tmp_path: Path, make, told: str) -> None:
    make(tmp_path / "list.txt")
    with pytest.raises(UserError, match=told):
        extract.run(tmp_path / "list.txt", tmp_path / "out", workers=1, progress=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_fails_the_zip_that_does_not_fit_and_leaves_nothing_half_unpacked(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    small = product(tmp_path / "in", NAMES[0])
    large = product(tmp_path / "in", NAMES[1], size=3_000_000, compression=zipfile.ZIP_STORED)
    out = tmp_path / "disk"
    out.mkdir()
    code = (
        "import ctypes, os, sys\n"
        "os.unshare(os.CLONE_NEWNS) if hasattr(os, 'unshare') else ctypes.CDLL(None).unshare(0x20000)\n"
        "os.system('mount --make-rprivate /')\n"
        f"assert os.system('mount -t tmpfs -o size=2m none {out}') == 0\n"
        "from stormbench.cloudmask import extract\n"
        # as where the space is taken meanwhile
        "extract._check_space = lambda *_: None\n"
        f"try: extract.run({str(listed(tmp_path, [large, small]))!r}, {str(out)!r}, workers=1, progress=False)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        f"print(sorted(name for name in os.listdir({str(out)!r})))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean_environment(), check=True)
    assert "RunError 1 of 2 zip files" in done.stdout, done.stdout + done.stderr
    assert "no space left on device" in done.stdout
    assert done.stdout.splitlines()[-1] == str([NAMES[0]])


def test_killed_in_the_middle_the_same_call_ends_with_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    files = [product(tmp_path / "in", f"S3A_{number}.SEN3", size=2_000_000) for number in range(12)]
    words = [str(listed(tmp_path, files)), str(tmp_path / "cut")]
    code = f"from stormbench.cloudmask import extract; extract.run(*{words!r}, workers=2, progress=False)"
    process = subprocess.Popen([sys.executable, "-c", code], env=clean_environment(), start_new_session=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "cut").exists() or len(list((tmp_path / "cut").glob("S3A*"))) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None, "it ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # a folder that a kill has left unfinished
    (tmp_path / "cut" / ".S3A_9.1.xyz.partial").mkdir()
    extract.run(*words, workers=1, progress=False)
    extract.run(words[0], tmp_path / "whole", workers=1, progress=False)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert not [path for path in (tmp_path / "cut").iterdir() if path.name.startswith(".")]
