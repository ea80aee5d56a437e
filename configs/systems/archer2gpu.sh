# shellcheck shell=bash
# ARCHER2's GPU nodes at EPCC: one 32-core EPYC, 4 MI210 of 64 GB. A job gets whole nodes, two at most, in gpu-exc.
export DGXSYSTEM=ARCHER2GPU
export STORMBENCH_SCHEDULER=slurm
export STORMBENCH_RUNTIME=apptainer
export STORMBENCH_HOSTS="ln[0-9][0-9] uan[0-9][0-9] dvn[0-9][0-9]"

export STORMBENCH_CORES_PER_NODE=32
export STORMBENCH_CORES_PER_RANK=8
export STORMBENCH_GPUS_PER_NODE=4
export STORMBENCH_GPU_MEMORY=64
export STORMBENCH_GPU_VENDOR=amd
export STORMBENCH_GPU_REQUEST=gpus
export STORMBENCH_LAUNCH_ARGS="--threads-per-core=1"
export STORMBENCH_RANK_CORES="0-7 8-15 16-23 24-31"
export STORMBENCH_LIMITS="gpu-exc:nodes=2,minutes=720 gpu-shd:nodes=1,minutes=720"

export SBATCH_PARTITION=gpu
export SBATCH_QOS=gpu-exc
export SBATCH_EXCLUSIVE=exclusive
[ -z "${WALLTIME:-}" ] || export SBATCH_TIMELIMIT=$WALLTIME
[[ -z ${DGXNNODES:-} || $DGXNNODES == *[!0-9]* ]] || export SBATCH_GPUS=$((10#$DGXNNODES * STORMBENCH_GPUS_PER_NODE))
export SBATCH_GPUS_PER_NODE=$STORMBENCH_GPUS_PER_NODE

# shellcheck source=/dev/null
[ ! -f "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh" ] || source "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh"
