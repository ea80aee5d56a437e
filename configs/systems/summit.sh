# shellcheck shell=bash
# Summit at OLCF, retired in November 2024: 6 V100 of 16 GB, 42 usable POWER9 cores, LSF. Modules in place of a container, as none built
# here runs on ppc64le.
export DGXSYSTEM=Summit
export STORMBENCH_SCHEDULER=lsf
export STORMBENCH_RUNTIME=none
export STORMBENCH_MODULES=open-ce
export STORMBENCH_HOSTS="*.summit.olcf.ornl.gov *.summit"
export STORMBENCH_DIRECTIVES='-alloc_flags "gpumps smt1"'

export STORMBENCH_ARCH=ppc64le
export STORMBENCH_CORES_PER_NODE=42
export STORMBENCH_CORES_PER_RANK=7
export STORMBENCH_NODE_MEMORY=512
export STORMBENCH_GPUS_PER_NODE=6
export STORMBENCH_GPU_MEMORY=16
export STORMBENCH_GPU_VENDOR=nvidia

# the queue gave larger jobs more time
export STORMBENCH_QUEUE=batch
export STORMBENCH_LIMITS="batch:nodes=4608,minutes=1440"
[ "${DGXNNODES:-1}" -ge 922 ] || export STORMBENCH_LIMITS="batch:nodes=4608,minutes=720"
[ "${DGXNNODES:-1}" -ge 92 ] || export STORMBENCH_LIMITS="batch:nodes=4608,minutes=360"
[ "${DGXNNODES:-1}" -ge 46 ] || export STORMBENCH_LIMITS="batch:nodes=4608,minutes=120"

# shellcheck source=/dev/null
[ ! -f "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh" ] || source "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh"
