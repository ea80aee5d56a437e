# shellcheck shell=bash
# One DGX A100 (80 GB) without a batch scheduler: the job is one docker container with all ranks.
export DGXSYSTEM=DGX
export STORMBENCH_SCHEDULER=docker
export STORMBENCH_RUNTIME=docker

export STORMBENCH_CORES_PER_NODE=128
export STORMBENCH_NODE_MEMORY=2048
export STORMBENCH_GPUS_PER_NODE=8
export STORMBENCH_GPU_MEMORY=80
export STORMBENCH_GPU_VENDOR=nvidia

# shellcheck source=/dev/null
[ ! -f "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh" ] || source "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh"
