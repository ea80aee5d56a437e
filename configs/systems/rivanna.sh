# shellcheck shell=bash
# Rivanna / Afton at the University of Virginia: BasePOD nodes, each a DGX A100. The GPUs' type stands in the request, and Slurm
# refuses to mix requests with and without a type, so the number of nodes is given by hand where it is not 1: sbatch -N "$DGXNNODES" run.sub
export DGXSYSTEM=Rivanna
export STORMBENCH_SCHEDULER=slurm
export STORMBENCH_RUNTIME=apptainer
export STORMBENCH_HOSTS="udc-*"

export STORMBENCH_CORES_PER_NODE=128
export STORMBENCH_CORES_PER_RANK=8
export STORMBENCH_GPUS_PER_NODE=8
export STORMBENCH_GPU_MEMORY=80
export STORMBENCH_GPU_TYPE=a100
export STORMBENCH_GPU_VENDOR=nvidia
export STORMBENCH_GPU_REQUEST=gres

export SBATCH_PARTITION=gpu
export SBATCH_CONSTRAINT=gpupod
export SBATCH_GRES=gpu:a100:$STORMBENCH_GPUS_PER_NODE
[ -z "${WALLTIME:-}" ] || export SBATCH_TIMELIMIT=$WALLTIME

# shellcheck source=/dev/null
[ ! -f "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh" ] || source "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh"
