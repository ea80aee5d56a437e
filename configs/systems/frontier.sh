# shellcheck shell=bash
# Frontier at OLCF: 4 MI250X, each two GCDs of 64 GB that count as GPUs, and 56 of 64 cores for jobs. The nodes' NVMe is mounted as
# /mnt/bb/USER: name it in data.sh as STORMBENCH_SCRATCH.
export DGXSYSTEM=Frontier
export STORMBENCH_SCHEDULER=slurm
export STORMBENCH_RUNTIME=apptainer
export STORMBENCH_LAUNCH_ARGS="--gpus-per-task=1 --gpu-bind=closest"
export STORMBENCH_HOSTS="*.frontier.olcf.ornl.gov *.frontier frontier[0-9]*"

export STORMBENCH_CORES_PER_NODE=56
export STORMBENCH_CORES_PER_RANK=7
export STORMBENCH_NODE_MEMORY=512
export STORMBENCH_GPUS_PER_NODE=8
export STORMBENCH_GPU_MEMORY=64
export STORMBENCH_GPU_VENDOR=amd
# the batch partition gives larger jobs more time
export STORMBENCH_LIMITS="batch:minutes=720"
[ "${DGXNNODES:-1}" -ge 184 ] || export STORMBENCH_LIMITS="batch:minutes=360"
[ "${DGXNNODES:-1}" -ge 92 ] || export STORMBENCH_LIMITS="batch:minutes=120"
export NCCL_SOCKET_IFNAME=hsn0
export FI_MR_CACHE_MONITOR=kdreg2
export FI_CXI_DISABLE_HOST_REGISTER=1

export SBATCH_PARTITION=batch
export SBATCH_CONSTRAINT=nvme
export SBATCH_CORE_SPEC=8
[ -z "${WALLTIME:-}" ] || export SBATCH_TIMELIMIT=$WALLTIME
[[ -z ${DGXNNODES:-} || $DGXNNODES == *[!0-9]* ]] || export SBATCH_GPUS=$((10#$DGXNNODES * STORMBENCH_GPUS_PER_NODE))
export SBATCH_GPUS_PER_NODE=$STORMBENCH_GPUS_PER_NODE

# shellcheck source=/dev/null
[ ! -f "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh" ] || source "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh"
