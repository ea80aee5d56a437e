#!/usr/bin/env bash
# Horovod for the TensorFlow and the MPI of an image, laid out below a folder: from a wheel in the wheelhouse, or built here, which
# takes about 7 minutes on 2 cores.  horovod.sh VARIANT TARGET
set -euo pipefail
variant=$1 target=$2
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=docker/steps/site.sh
. "$here/site.sh"
venv=/opt/stormbench/venv

wheel=$(find "$wheelhouse" -maxdepth 1 -name 'horovod-*.whl' | head -n 1)
if [ -z "$wheel" ]; then
    packages=(g++ make python3-dev)
    [ "$variant" = mpich ] || packages+=(libopenmpi-dev)
    apt_install "${packages[@]}"
    # where the compiler wrappers of MPICH's wheel find its library
    [ "$variant" != mpich ] || export LIBRARY_PATH=/opt/stormbench/mpich/lib
    export PATH=$venv/bin:$PATH STORMBENCH_WHEELS=/tmp/wheels
    if [ "$variant" = cuda ]; then
        # shellcheck source=docker/steps/cuda-toolkit.sh
        . "$here/cuda-toolkit.sh"
    fi
    wheel=$("$here/horovod-wheel.sh" "$venv/bin/python" | tail -n 1)
fi
"$venv/bin/python" -m pip install -q --no-deps --no-index --no-warn-script-location --root "$target" "$wheel"
