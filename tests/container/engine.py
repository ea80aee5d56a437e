"""Real container tools on this machine, without a daemon and with a store of their own: podman, buildah, debootstrap, apptainer.

The store lies in ~/.cache/stormbench, so that a later run finds base and layers; the machine's own containers are never touched.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import CACHE, OWN_APPTAINER, clean_environment

ROOT = Path(__file__).parents[2]
BASE = "localhost/stormbench-base"
PYTHON = "3.11"
"""Of Debian bookworm."""
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
# program: the Debian package that has it
NEEDED = {
    "podman": "podman", "buildah": "buildah", "runc": "runc", "conmon": "conmon", "debootstrap": "debootstrap", "netavark": "netavark",
    "newuidmap": "uidmap", "mksquashfs": "squashfs-tools", "setpriv": "util-linux",
}  # fmt: skip
_PROGRAMS = "/usr/lib/podman"
"""Where Debian keeps netavark, outside of the search path."""
LIMIT_S = 1500.0
BUILD_TOOLS = ("setuptools>=69", "wheel")
# ids as they are, and every capability, which root in a container often lacks
_ENTER = 'read -r _ && exec setpriv --reuid 0 --regid 0 --clear-groups "$@"'

_CONTAINERS = """\
[containers]
pids_limit = 0
default_ulimits = []
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
"""
_STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{cache}/containers/graph"
runroot = "{cache}/containers/run"
"""


def why_impossible() -> tuple[str | None, bool]:
    """Return what is missing here, or None, and whether it can be installed, so that CI must not go without."""
    path = os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin", _PROGRAMS))
    packages = sorted({package for program, package in NEEDED.items() if shutil.which(program, path=path) is None})
    if sys.platform != "linux" or shutil.which("apt-get") is None:
        return "needs Debian, whose packages make the base image", False
    if os.geteuid() != 0:
        return "building a base image needs root; run the tests as root", False
    if packages:
        return f"needs real container tools: apt-get install --no-install-recommends {' '.join(packages)}", True
    tried = subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        return f"this machine doesn't let root mount file systems, which containers need ({tried.stderr.strip()})", False
    return None, False


def environment(**extra: str) -> dict[str, str]:
    """Return the environment that leads the tools to the store of the tests."""
    folder = CACHE / "containers"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("containers.conf", _CONTAINERS), ("storage.conf", _STORAGE.format(cache=CACHE))):
        if not (folder / name).exists() or (folder / name).read_text() != text:
            (folder / name).write_text(text)
    found = clean_environment(**extra)
    return found | {
        "CONTAINERS_CONF": str(folder / "containers.conf"), "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        # nothing of this machine but its kernel is needed to run a step of a build
        "BUILDAH_ISOLATION": "chroot", "PATH": os.pathsep.join((found["PATH"], "/usr/sbin", "/sbin", str(OWN_APPTAINER))),
    }  # fmt: skip


def run(*words: object, check: bool = True, folder: Path | None = None, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run a tool to its end and return what came of it; its standard error is joined to what a failed check shows."""
    command = [str(word) for word in words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(**extra), cwd=folder, timeout=LIMIT_S, check=False)
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done


def run_as_whole_root(words: Sequence[object], folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command as root with all capabilities, in a user namespace where each id is itself: apptainer's builds want them all."""
    command = ["unshare", "--user", "--mount", "--propagation", "slave", "sh", "-c", _ENTER, "sh", *(str(word) for word in words)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment(**environ), cwd=folder)
    own = Path("/proc/self/ns/user").readlink()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{process.pid}/ns/user").readlink() == own:
        assert process.poll() is None and time.monotonic() < deadline, "no user namespace can be made here"
        time.sleep(0.01)
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{process.pid}/{name}").write_text("0 0 65536")
    try:
        stdout, stderr = process.communicate("go\n", timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    done = subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
    assert done.returncode == 0, f"{' '.join(command[11:])}: {done.returncode}\n{stdout[-3000:]}\n{stderr[-6000:]}"
    return done


def podman_run(image: str, *words: object, options: Sequence[object] = (), check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run words in an image without any network; health checks on a timer would need systemd."""
    command = ("podman", "run", "--rm", "--network", "none", "--no-healthcheck", *options, image, *words)
    return run(*command, check=check)


def debian_mirror() -> str:
    """Return the mirror that this machine installs from."""
    lists = [*Path("/etc/apt").glob("sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    for file in lists:
        found = re.search(r"https?://\S+/debian/?(?=\s|$)", file.read_text(errors="replace"))
        if found:
            return found[0]
    return "http://deb.debian.org/debian"


def base_image() -> str:
    """Return a bookworm without anything, made by debootstrap once and kept in the store."""
    name = f"{BASE}:bookworm"
    if run("podman", "image", "exists", name, check=False).returncode != 0:
        folder = CACHE / "containers" / f"base-{os.getpid()}"
        try:
            run("debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", folder, debian_mirror())
            for leftover in (*folder.glob("dev/*"), *folder.glob("var/cache/apt/archives/*.deb"), *folder.glob("var/lib/apt/lists/*_*")):
                shutil.rmtree(leftover) if leftover.is_dir() and not leftover.is_symlink() else leftover.unlink()
            folder.chmod(0o755)
            run("sh", "-c", 'tar -C "$1" -c . | podman import -q - "$2"', "sh", folder, name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return name


def wheelhouse(key: str) -> Path:
    """Return a folder with every wheel that the build of an image such as deepcam-cpu needs, so that it can go without any index."""
    wanted = [ROOT / "docker" / kind / f"{key}.txt" for kind in ("constraints", "requirements")]
    mark = hashlib.sha256(b"".join(path.read_bytes() for path in wanted)).hexdigest()[:16]
    folder = CACHE / "wheelhouse" / f"{key}-{mark}"
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        constraints, requirements = wanted
        words = [sys.executable, "-m", "pip", "download", "-q", "-d", partial, "--only-binary=:all:", "--python-version", PYTHON]
        words += [word for tag in ("manylinux2014", "manylinux_2_17", "manylinux_2_27", "manylinux_2_28", "manylinux_2_34", "linux")
                  for word in ("--platform", f"{tag}_{os.uname().machine}")]  # fmt: skip
        words += ["-c", constraints, "-r", requirements, *BUILD_TOOLS]
        done = run(*words, check=False)
        if done.returncode != 0 and key.startswith("deepcam"):
            # the CPU's torch is on an index of its own, where it isn't at hand by this machine's settings
            run(*words, "--extra-index-url", TORCH_INDEX)
        elif done.returncode != 0:
            raise AssertionError(done.stderr[-4000:])
        for older in folder.parent.glob(f"{key}-*"):
            if older != partial:
                shutil.rmtree(older, ignore_errors=True)
        partial.rename(folder)
    return folder


def certificates() -> Path | None:
    """Return the certificates that this machine trusts, which a build gets as a secret."""
    for given in (os.environ.get("SSL_CERT_FILE"), "/etc/ssl/certs/ca-certificates.crt"):
        if given and Path(given).is_file():
            return Path(given)
    return None


def forget_old_layers() -> None:
    """Drop what no named image is made of, unless it is of this week: a build finds its earlier stages, which have no names, there."""
    run("podman", "image", "prune", "--force", "--filter", "until=168h", check=False)
