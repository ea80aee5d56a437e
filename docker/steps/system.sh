#!/usr/bin/env bash
# The operating system's part of an image: Python, MPI, numactl, the user and the mount points.  system.sh IMAGE VARIANT
set -euo pipefail
# shellcheck source=docker/steps/site.sh
. "$(dirname "$0")/site.sh"

# numactl binds ranks to the memory near them
packages=(numactl)
case $1-$2 in
    # Open MPI is built with PMIx, which pyxis sites and Slurm's --mpi=pmix need
    deepcam-cpu | deepcam-cuda-pypi | cloudmask-cpu | cloudmask-cuda) packages+=(ca-certificates python3 python3-venv openmpi-bin) ;;
    # MPICH comes from PyPI, whose library has the name libmpi.so.12 of the common ABI; Debian's has another one
    deepcam-mpich | cloudmask-mpich) packages+=(ca-certificates python3 python3-venv) ;;
    # these bases bring Python, and NVIDIA's brings HPC-X
    deepcam-cuda | deepcam-rocm) ;;
    *) echo "VARIANT=$2: $1 has no such variant; docker/images.toml has the list" >&2 && exit 2 ;;
esac
apt_install "${packages[@]}"

# Runtimes mount data, results and node-local scratch here. Any user may be asked for, so the last two are open to all.
mkdir -p /data /results /scratch /workspace
chmod 1777 /results /scratch
groupadd --gid 10001 stormbench
useradd --uid 10001 --gid 10001 --home-dir /scratch --no-create-home --shell /bin/bash stormbench
