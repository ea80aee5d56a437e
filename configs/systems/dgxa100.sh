# shellcheck shell=bash
# DGX A100 (80 GB) with pyxis and enroot under Slurm, as in NVIDIA's Selene. Where the site wants a partition, data.sh names it.
export DGXSYSTEM=DGXA100
export STORMBENCH_SCHEDULER=slurm
export STORMBENCH_RUNTIME=pyxis
export STORMBENCH_MPI=pmix
export STORMBENCH_SCRATCH=/raid/scratch

export STORMBENCH_CORES_PER_NODE=128
export STORMBENCH_NODE_MEMORY=2048
export STORMBENCH_GPUS_PER_NODE=8
export STORMBENCH_GPU_MEMORY=80
export STORMBENCH_GPU_VENDOR=nvidia
# each GPU's rank on a NUMA domain of its own, on the GPU's socket; the cards are those that share a PCIe switch with the GPU
export STORMBENCH_LAUNCH_ARGS="--threads-per-core=1"
export STORMBENCH_RANK_CORES="48-63 32-47 16-31 0-15 112-127 96-111 80-95 64-79"
export STORMBENCH_NICS="mlx5_0 mlx5_1 mlx5_2 mlx5_3 mlx5_6 mlx5_7 mlx5_8 mlx5_9"

[ -z "${WALLTIME:-}" ] || export SBATCH_TIMELIMIT=$WALLTIME
export SBATCH_EXCLUSIVE=exclusive
[[ -z ${DGXNNODES:-} || $DGXNNODES == *[!0-9]* ]] || export SBATCH_GPUS=$((10#$DGXNNODES * STORMBENCH_GPUS_PER_NODE))
export SBATCH_GPUS_PER_NODE=$STORMBENCH_GPUS_PER_NODE

# shellcheck source=/dev/null
[ ! -f "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh" ] || source "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh"
