#!/usr/bin/env bash
# Builds Horovod's wheel for the TensorFlow of a Python environment, once: later calls find it in the cache. The last line of what
# it prints is the wheel's path. Takes about 7 minutes on 2 cores; needs a C++17 compiler and an MPI with its headers.
#
#   docker/horovod-wheel.sh [PYTHON]      kept in $STORMBENCH_WHEELS, by default ~/.cache/stormbench/wheels
#   docker/horovod-wheel.sh --fetch FOLDER [X.Y]
#                                         only puts the source and the build's tools for Python X.Y into a wheelhouse, with which an
#                                         image's build makes the wheel without any network
#
# Calls at the same time build once. One that is killed leaves no half wheel behind.
set -euo pipefail

python=${1:-python3}
version=0.28.1
sha256=92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0
fail() {
    printf 'horovod-wheel: %s\n' "$*" >&2
    exit "${code:-2}"
}

# Horovod's setup.py asks for what setuptools 81 and CMake 4 have removed; they stay out of the environment itself
tools=('setuptools<81' wheel 'cmake>=3.13,<4' packaging cffi cloudpickle psutil pyyaml)
# download PYTHON FOLDER: the source of the release that the hash names; pip reads its metadata by the tools
download() {
    printf 'horovod==%s --hash=sha256:%s\n' "$version" "$sha256" >"$build/requirements.txt"
    "$1" -m pip download -q --no-deps --no-binary horovod --no-build-isolation --require-hashes -r "$build/requirements.txt" -d "$2"
}
if [ "$python" = --fetch ]; then
    folder=${2:-} minor=${3:-}
    [ -n "$folder" ] || fail "--fetch: needs the folder of a wheelhouse, and the image's Python where it isn't this machine's: --fetch wheels 3.11"
    [[ $minor =~ ^(3\.[0-9]+)?$ ]] || fail "--fetch $folder $minor: the last word is the image's Python, such as 3.11"
    mkdir -p -- "$folder" 2>/dev/null || fail "$folder: can't be made"
    build=$(mktemp -d)
    trap 'rm -rf -- "$build"' EXIT
    {
        python3 -m pip download -q --only-binary=:all: ${minor:+--python-version "$minor"} -d "$folder" "${tools[@]}" \
            && python3 -m pip install -q --target "$build/tools" "${tools[@]:0:2}" packaging
    } || code=1 fail "the build's tools couldn't be fetched; pip's own words are above"
    PYTHONPATH=$build/tools download python3 "$folder" || code=1 fail "Horovod's source couldn't be fetched; pip's own words are above"
    exit 0
fi

# the version of TensorFlow alone, as importing it takes seconds and prints
tensorflow=$("$python" - <<'PYTHON'
from importlib import metadata
for name in ("tensorflow", "tensorflow-cpu"):
    try:
        print(metadata.version(name))
        break
    except metadata.PackageNotFoundError:
        pass
PYTHON
) || fail "$python: doesn't run; give the Python of the environment that Horovod is for"
[ -n "$tensorflow" ] || fail "$python has no TensorFlow; install it first, as Horovod is built against it"
for program in mpicxx g++; do
    command -v "$program" >/dev/null || fail "$program: not found; on Debian: apt-get install g++ libopenmpi-dev openmpi-bin"
done
# the compiler's own word: the mpirun that is found first may be another MPI's
mpi=$({ mpicxx --showme:version || mpicxx -v; } 2>/dev/null | grep -oE '(Open MPI|MPICH|MVAPICH|Intel[^0-9]*) ?(version )?v?[0-9][0-9A-Za-z.]*' \
    | head -n 1 | tr -cs 'A-Za-z0-9.\n' - || true)
tag=$("$python" -c 'import sys, sysconfig; print(f"cp{sys.version_info[0]}{sys.version_info[1]}-{sysconfig.get_platform()}".replace("-", "_"))')
operations=${HOROVOD_GPU_OPERATIONS:-cpu}
cache=${STORMBENCH_WHEELS:-${XDG_CACHE_HOME:-$HOME/.cache}/stormbench/wheels}/horovod-$version-tf$tensorflow-$tag-${mpi:-mpi}-${operations,,}
mkdir -p "$cache" 2>/dev/null || fail "$cache: can't be made; set STORMBENCH_WHEELS to a folder that can be written"
exec {lock}>"$cache/.lock"
flock --nonblock "$lock" || { printf 'horovod-wheel: another call is building it; waiting\n' >&2; flock "$lock"; }
found() { find "$cache" -maxdepth 1 -name 'horovod-*.whl' | head -n 1; }
if [ -n "$(found)" ]; then
    found
    exit 0
fi

build=$(mktemp -d)
trap 'rm -rf -- "$build"' EXIT
log=$cache/build.log
: >"$log"
rm -f -- "$cache"/.horovod-*
# run WHAT COMMAND...: its output goes to the log; it doesn't inherit the lock, which a killed call would otherwise leave taken
run() {
    local what=$1
    shift
    "$@" >>"$log" 2>&1 {lock}>&- || code=1 fail "$what failed; see $log"
}
run "fetching the build's tools" "$python" -m pip install -q --target "$build/tools" "${tools[@]}"
export PYTHONPATH=$build/tools${PYTHONPATH:+:$PYTHONPATH} PATH=$build/tools/bin:$PATH
run "fetching Horovod's source" download "$python" "$build"
run "unpacking Horovod's source" tar -xzf "$build/horovod-$version.tar.gz" -C "$build"
source=$build/horovod-$version
if [ "$(printf '%s\n' 2.16 "$tensorflow" | sort -V | head -n 1)" = 2.16 ]; then
    # After 2.15, TensorFlow has moved the XLA headers that these operations include. They only serve all-reduces inside a graph
    # that XLA compiles, which the kit never asks for: its training loop calls Horovod outside.
    operations_file=$source/horovod/tensorflow/xla_mpi_ops.cc
    sed -i '0,/^#if TENSORFLOW_VERSION >= 2006000000$/s//#if 0/' "$operations_file"
    grep -qx '#if 0' "$operations_file" || code=1 fail "xla_mpi_ops.cc isn't what it was in $version, so its XLA section can't be switched off"
fi
export HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITH_MPI=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1
export MAKEFLAGS=${MAKEFLAGS:--j$(nproc)}
run "building Horovod $version for TensorFlow $tensorflow" "$python" -m pip wheel -q --no-build-isolation --no-deps -w "$build/wheel" "$source"
wheel=$(find "$build/wheel" -name 'horovod-*.whl' | head -n 1)
# beside its place first: the folder for temporary files may be on another disk, and a copy can be cut short
cp -- "$wheel" "$cache/.${wheel##*/}"
mv -- "$cache/.${wheel##*/}" "$cache/${wheel##*/}"
found
