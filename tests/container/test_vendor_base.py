"""The variants on GPU vendors' images, whose bases are out of reach here: the same recipe on a base that brings Python and torch itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.container import engine
from tests.container.engine import BASE, ROOT, podman_run, run

RECIPE = f"""\
FROM {BASE}:bookworm
COPY steps/site.sh steps/system.sh /steps/
RUN --mount=type=secret,id=ca --mount=type=secret,id=apt bash /steps/system.sh deepcam cpu \\
 && rm -rf /steps /workspace /results /scratch /data && userdel stormbench
RUN python3 -m venv /opt/vendor && cd /opt/vendor/lib/python3.11/site-packages \\
 && mkdir torch tqdm torch-2.10.0a0+vendor.dist-info tqdm-4.60.0.dist-info \\
 && printf '__version__ = "2.10.0a0+vendor"\\n' >torch/__init__.py && printf 'vendors = True\\n' >tqdm/__init__.py \\
 && for name in torch-2.10.0a0+vendor tqdm-4.60.0; do \\
      printf 'Metadata-Version: 2.1\\nName: %s\\nVersion: %s\\n' "${{name%%-*}}" "${{name#*-}}" >$name.dist-info/METADATA; done
ENV PATH=/opt/vendor/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
"""
"""As a vendor's: Python in an environment of its own with its own torch, and an MPI."""


@pytest.fixture(scope="module")
def on_vendor(secrets: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """DeepCAM's variant cuda on a vendor's base."""
    folder = tmp_path_factory.mktemp("vendor")
    (folder / "Dockerfile").write_text(RECIPE)
    engine.base_image()
    given = dict(zip(secrets[::2], secrets[1::2], strict=True))
    told = [f"--secret=id={name},src={given[flag]}" for name, flag in (("apt", "--apt_mirror"), ("ca", "--ca")) if flag in given]
    words = ["buildah", "build", "--layers", "--network", "host", *told, "--file", str(folder / "Dockerfile"), "--tag", f"{BASE}:vendor"]
    run(*words, ROOT / "docker")
    tag = "stormbench-deepcam:vendor"
    words = [sys.executable, "-m", "stormbench", "images", "build", "deepcam", "--variant", "cuda", "--engine", "buildah", "--tag", tag]
    words += ["--base", f"{BASE}:vendor", "--network", "host", "--wheelhouse", str(engine.wheelhouse("deepcam-cpu")), *secrets]
    json.loads(run(*words, "--json", "--kit", ROOT, "--folder", folder).stdout)
    return f"localhost/{tag}"


def test_what_the_vendor_brings_stays_and_what_it_lacks_is_added(on_vendor: str) -> None:
    show = "import torch, tqdm, h5py, mpi4py.MPI, stormbench; print(torch.__version__, tqdm.vendors, h5py.__version__, stormbench.__file__)"
    told = podman_run(on_vendor, "python", "-c", show).stdout.split()
    assert told[:2] == ["2.10.0a0+vendor", "True"]
    assert told[3].startswith("/opt/stormbench/venv/")
    manifest = podman_run(on_vendor, "cat", "/opt/stormbench/manifest.txt").stdout
    assert "python torch 2.10.0a0+vendor\n" in manifest and "python tqdm 4.60.0\n" in manifest
    constraints = Path(ROOT / "docker/constraints/deepcam-cuda.txt").read_text()
    assert f"h5py=={told[2]}" in constraints
    installed = podman_run(on_vendor, "sh", "-c", "ls /opt/stormbench/venv/lib/python3.11/site-packages").stdout.split()
    assert "torch" not in installed and "tqdm" not in installed and "h5py" in installed


def test_its_health_check_looks_for_the_device_only_when_asked(on_vendor: str) -> None:
    done = podman_run(on_vendor, "python", "/opt/stormbench/health.py")
    assert "h5py" in done.stdout
    done = podman_run(on_vendor, "python", "/opt/stormbench/health.py", "--device", check=False)
    assert done.returncode == 1
    assert "torch_tensorrt doesn't import" in done.stderr and "nvidia.dali doesn't import" in done.stderr
