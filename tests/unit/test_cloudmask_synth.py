"""Generated sets of products: their layout, that reruns and the number of workers never change a byte, and what they refuse."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stormbench.cloudmask import manifest, names, product, sen3, synth
from stormbench.cloudmask.synth import Parameters, plan
from stormbench.core.errors import RunError, UserError
from tests.deepcam_files import mpirun

SMALL = {"products": 3, "duplicates": 1, "height": 40, "width": 48, "progress": False}
TABLE = "sst_matchups.h5"


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def call(folder: Path, **options: object) -> str:
    """Return Python that generates the small set."""
    return f"from stormbench.cloudmask import synth; print(synth.run({str(folder)!r}, **{ {**SMALL, **options}!r})['written'])"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set; read-only by agreement."""
    folder = tmp_path_factory.mktemp("synth") / "set"
    done = synth.run(folder, workers=1, **SMALL)
    assert (done["written"], done["kept"]) == (4, 0)
    return folder


@pytest.fixture
def own(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "own"))


def test_each_product_is_a_folder_of_all_files_with_a_true_manifest(small: Path) -> None:
    folders = sorted(small.glob("*.SEN3"))
    assert len(folders) == 4
    for folder in folders:
        names.parse(folder.name)
        assert {path.name for path in folder.iterdir()} == {*sen3.FILES, "xfdumanifest.xml"}
        for entry in manifest.read((folder / "xfdumanifest.xml").read_bytes()).values():
            content = (folder / entry.name).read_bytes()
            assert (len(content), hashlib.md5(content).hexdigest()) == (entry.size, entry.md5)
    assert sorted(path.name for path in small.iterdir()) == sorted([*(path.name for path in folders), TABLE, "synth.json"])


def test_default_set_has_day_twilight_and_night_both_satellites_and_both_baselines(small: Path) -> None:
    found = [names.parse(path.name) for path in small.glob("*.SEN3")]
    assert {(name.mission, name.baseline) for name in found} == {("S3A", "004"), ("S3B", "005")}
    frames = [product.read_frame(path) for path in small.glob("*.SEN3")]
    assert {frame.day for frame in frames} == {True, False}
    shares = [np.isfinite(frame.refs_hwc).mean() for frame in frames]
    assert any(share == 0 for share in shares)
    assert any(share > 0.8 for share in shares)


def test_frames_are_consecutive_on_each_orbit() -> None:
    for products, orbits in ((4, 2), (9, 3), (40, 6), (70, 8), (100, 4)):
        granules = plan(parameters(products=products, orbits=orbits))
        assert len(granules) == products
        times = [granule.start for granule in granules]
        assert len(set(times)) == products
        for number in range(orbits):
            frames = [granule.frame for granule in granules if granule.orbit == number]
            assert frames == list(range(frames[0], frames[0] + len(frames)))
            assert abs(len(frames) - products / orbits) < 1
            assert 0 <= frames[0] <= frames[-1] < 33


def parameters(**given: int) -> Parameters:
    return Parameters(**{"products": 4, "orbits": 2, "duplicates": 0, "height": 96, "width": 128, "zipped": False, "seed": 1, **given})


def test_number_of_orbits_is_about_the_root_of_the_number_of_products_and_enough() -> None:
    assert [synth._checked(n, None, 0, 96, 128, False, 1).orbits for n in (1, 4, 36, 970, 3000)] == [1, 2, 6, 31, 91]


def test_duplicates_have_one_sensing_time_and_two_creation_times(small: Path) -> None:
    found = [names.parse(path.name) for path in small.glob("*.SEN3")]
    sensed = [name.sensing for name in found]
    assert (len(sensed), len(set(sensed))) == (4, 3)
    twice = next(sensing for sensing in sensed if sensed.count(sensing) == 2)
    assert len({name.created for name in found if name.sensing == twice}) == 2
    one, other = (product.read_frame(small / f"{name.text}.SEN3") for name in found if name.sensing == twice)
    np.testing.assert_array_equal(one.bts_hwc, other.bts_hwc)


def test_table_has_match_ups_of_each_sensing_time_once(small: Path) -> None:
    table = pd.read_hdf(small / TABLE)
    found = {path: names.parse(path).sensing for path in set(table.cems_path)}
    assert len(found) == len(set(found.values())) > 1
    assert {f"{names.stem(path)}.SEN3" for path in found} <= {path.name for path in small.glob("*.SEN3")}


def test_record_says_that_the_data_is_generated(small: Path) -> None:
    record = json.loads((small / "synth.json").read_text())
    assert record["generated_by"] == "stormbench cloudmask synth"
    assert (record["seed"], record["products"], record["orbits"], record["height"], record["zipped"]) == (1234, 3, 2, 40, False)
    assert "never accuracy" in record["note"]


def test_bytes_do_not_depend_on_the_number_of_workers(small: Path, tmp_path: Path) -> None:
    synth.run(tmp_path / "other", workers=3, **SMALL)
    assert digests(tmp_path / "other") == digests(small)


def test_ranks_share_the_products_and_write_the_same_bytes(small: Path, tmp_path: Path) -> None:
    done = mpirun(2, sys.executable, "-c", call(tmp_path / "ranks"))
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "ranks") == digests(small)


def test_another_seed_draws_other_products_of_the_same_names(small: Path, tmp_path: Path) -> None:
    synth.run(tmp_path, seed=1, workers=1, **SMALL)
    one, other = digests(small), digests(tmp_path)
    assert set(one) == set(other)
    measured = [name for name in one if "_BT_in" in name or "flags_in" in name]
    assert not {one[name] for name in measured} & {other[name] for name in measured}


def test_zips_hold_the_same_files_below_the_product_s_folder(small: Path, tmp_path: Path) -> None:
    synth.run(tmp_path, zipped=True, workers=1, **SMALL)
    found = {}
    for path in tmp_path.glob("*.zip"):
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            assert all(name.startswith(f"{path.stem}.SEN3/") for name in archive.namelist())
            found.update({name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()})
    assert found == {name: digest for name, digest in digests(small).items() if "/" in name}
    before = digests(tmp_path)
    broken = sorted(tmp_path.glob("*.zip"))[:2]
    broken[0].write_bytes(broken[0].read_bytes()[:-30])
    damaged = bytearray(broken[1].read_bytes())
    damaged[len(damaged) // 2] ^= 1
    broken[1].write_bytes(damaged)
    done = synth.run(tmp_path, zipped=True, workers=1, **SMALL)
    assert (done["written"], done["kept"]) == (2, 2)
    assert digests(tmp_path) == before


def test_rerun_keeps_complete_products_and_restores_damaged_ones(own: Path) -> None:
    before = digests(own)
    cut, flipped, listless, kept = sorted(own.glob("*.SEN3"))
    times = [path.stat().st_mtime_ns for path in sorted(kept.iterdir())]
    (cut / "S1_radiance_an.nc").write_bytes((cut / "S1_radiance_an.nc").read_bytes()[:-9])
    content = bytearray((flipped / "flags_in.nc").read_bytes())
    content[5000] ^= 1
    (flipped / "flags_in.nc").write_bytes(content)
    (listless / "xfdumanifest.xml").unlink()
    left = own / f".{cut.name}.123.abc.partial"
    left.mkdir()
    (left / "S1_radiance_an.nc").write_bytes(b"left by a killed run")
    done = synth.run(own, workers=1, **SMALL)
    assert (done["written"], done["kept"]) == (3, 1)
    assert digests(own) == before
    assert [path.stat().st_mtime_ns for path in sorted(kept.iterdir())] == times
    assert not left.exists()


@pytest.mark.parametrize("damage", ["missing", "cut", "altered"])
def test_rerun_restores_the_table_without_touching_the_products(own: Path, damage: str) -> None:
    before = digests(own)
    path = own / TABLE
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[:1000])
    else:
        value = pd.read_hdf(path).slat.to_numpy()[:1].tobytes()
        content[content.find(value)] ^= 1
        path.write_bytes(content)
    done = synth.run(own, workers=1, **SMALL)
    assert (done["written"], done["kept"]) == (0, 4)
    assert digests(own) == before


def test_killed_run_is_finished_by_the_same_command_to_the_same_bytes(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    running = subprocess.Popen([sys.executable, "-c", call(folder, workers=1)], stdout=subprocess.DEVNULL)
    limit = time.monotonic() + 120
    while not list(folder.glob("*.SEN3")) and running.poll() is None and time.monotonic() < limit:
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    running.wait()
    whole = {path.name for path in folder.glob("*.SEN3")}
    assert whole
    for name in whole:
        assert digests(folder / name) == digests(small / name)
    synth.run(folder, workers=1, **SMALL)
    assert digests(folder) == digests(small)


def test_full_disk_ends_with_one_sentence_and_the_rerun_completes_the_set(small: Path, tmp_path: Path) -> None:
    # a limit on the size of files stands in for a full disk: the kernel refuses the write in the same way
    code = call(tmp_path / "out", workers=1)
    limited = ["bash", "-c", 'trap "" XFSZ; ulimit -f 40; exec "$@"', "bash", sys.executable, "-c", code]
    done = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert "RunError" in done.stderr.splitlines()[-1]
    assert ".SEN3: can't be written" in done.stderr.splitlines()[-1]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["synth.json"]
    synth.run(tmp_path / "out", workers=1, **SMALL)
    assert digests(tmp_path / "out") == digests(small)


def test_works_from_a_script_without_a_main_guard(tmp_path: Path) -> None:
    code = call(tmp_path / "out", products=2, duplicates=0, workers=2)
    done = subprocess.run([sys.executable], input=code, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


def test_other_parameters_are_refused_where_a_set_is(small: Path) -> None:
    before = digests(small)
    for other, sentence in (({"seed": 1}, "seed 1234, not 1"), ({"zipped": True}, "zipped False, not True")):
        with pytest.raises(UserError, match=rf"synth\.json: the data there has {sentence}"):
            synth.run(small, **{**SMALL, **other})
    assert digests(small) == before


def test_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=r"isn't empty \(it holds thesis.tex\)"):
        synth.run(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="out: the folder can't be written"):
        synth.run(tmp_path / "out", **SMALL)


def test_unreadable_product_is_not_taken_for_a_damaged_one(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # root may read everything, so that the refusal is made up
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    before = digests(own)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", refuse)
        with pytest.raises(RunError, match=r"\.SEN3: may not be read; make it readable, or remove it"):
            synth.run(own, workers=1, **SMALL)
    assert digests(own) == before


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"height": 31}, "--height 31: must be from 32 to 1200"),
        ({"width": 1501}, "--width 1501: must be from 32 to 1500"),
        ({"products": 0}, "--products 0: must be from 1 to 100000"),
        ({"products": 10**9}, "--products 1000000000: must be from 1 to 100000"),
        ({"orbits": 5}, "--orbits 5: must be from 1 to 3"),
        ({"products": 67, "orbits": 2}, "--orbits 2: must be from 3 to 67"),
        ({"duplicates": 5}, "--duplicates 5: must be from 0 to 3"),
        ({"seed": -3}, "--seed -3: "),
        ({"workers": 0}, "--workers 0: must be at least 1"),
        ({"products": 10**5, "height": 1200, "width": 1500}, "GB are needed and .* GB free"),
    ],
)
def test_wrong_parameters_are_refused_in_one_sentence(tmp_path: Path, wrong: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        synth.run(tmp_path / "out", **{**SMALL, **wrong})
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.SEN3"))


def test_size_that_is_reckoned_with_is_about_the_real_one(small: Path) -> None:
    real = sum(path.stat().st_size for path in next(small.glob("*.SEN3")).iterdir())
    assert real < parameters(height=40, width=48).bytes_a_product < 3 * real


def test_importing_it_loads_no_heavy_library() -> None:
    code = "import sys, stormbench.cloudmask.synth; print([n for n in ('h5py', 'pandas', 'tables', 'tensorflow') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
