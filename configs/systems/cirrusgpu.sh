# shellcheck shell=bash
# Cirrus's GPU nodes at EPCC, in service until 2025: two 20-core Cascade Lake, 4 V100 of 16 GB. sbatch refuses --ntasks and
# --cpus-per-task there, so that srun alone gets them.
export DGXSYSTEM=CirrusGPU
export STORMBENCH_SCHEDULER=slurm
export STORMBENCH_RUNTIME=apptainer
export STORMBENCH_TASKS_IN_DIRECTIVES=0
export STORMBENCH_HOSTS="cirrus-login[0-9]* r[0-9]i[0-9]n[0-9]*"

export STORMBENCH_CORES_PER_NODE=40
export STORMBENCH_CORES_PER_RANK=10
export STORMBENCH_NODE_MEMORY=384
export STORMBENCH_GPUS_PER_NODE=4
export STORMBENCH_GPU_MEMORY=16
export STORMBENCH_GPU_VENDOR=nvidia
export STORMBENCH_GPU_REQUEST=gres
export STORMBENCH_LIMITS="gpu:gpus=64,minutes=5760 short:gpus=4,minutes=20 largescale:gpus=144,minutes=1440 \
lowpriority:gpus=16,minutes=2880"

export SBATCH_PARTITION=gpu
export SBATCH_QOS=gpu
export SBATCH_EXCLUSIVE=exclusive
[ -z "${WALLTIME:-}" ] || export SBATCH_TIMELIMIT=$WALLTIME
export SBATCH_GRES=gpu:$STORMBENCH_GPUS_PER_NODE
# with the GPUs of the whole job, sbatch knows how many nodes these are
[[ -z ${DGXNNODES:-} || $DGXNNODES == *[!0-9]* ]] || export SBATCH_GPUS=$((10#$DGXNNODES * STORMBENCH_GPUS_PER_NODE))

# shellcheck source=/dev/null
[ ! -f "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh" ] || source "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh"
