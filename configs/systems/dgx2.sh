# shellcheck shell=bash
# One DGX-2 (V100, 32 GB) without a batch scheduler: the job is one docker container with all ranks.
export DGXSYSTEM=DGX2
export STORMBENCH_SCHEDULER=docker
export STORMBENCH_RUNTIME=docker

export STORMBENCH_CORES_PER_NODE=48
export STORMBENCH_NODE_MEMORY=1536
export STORMBENCH_GPUS_PER_NODE=16
export STORMBENCH_GPU_MEMORY=32
export STORMBENCH_GPU_VENDOR=nvidia

# shellcheck source=/dev/null
[ ! -f "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh" ] || source "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh"
