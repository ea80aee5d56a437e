# shellcheck shell=bash
# PEARL at STFC: DGX-2 nodes with 16 V100 of 32 GB. No site document confirms what its Slurm wants; a partition belongs in data.sh.
export DGXSYSTEM=PEARL
export STORMBENCH_UNVERIFIED=1
export STORMBENCH_SCHEDULER=slurm
export STORMBENCH_RUNTIME=apptainer

export STORMBENCH_CORES_PER_NODE=48
export STORMBENCH_NODE_MEMORY=1536
export STORMBENCH_GPUS_PER_NODE=16
export STORMBENCH_GPU_MEMORY=32
export STORMBENCH_GPU_VENDOR=nvidia
export STORMBENCH_GPU_REQUEST=gres

export SBATCH_GRES=gpu:$STORMBENCH_GPUS_PER_NODE
[ -z "${WALLTIME:-}" ] || export SBATCH_TIMELIMIT=$WALLTIME

# shellcheck source=/dev/null
[ ! -f "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh" ] || source "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh"
