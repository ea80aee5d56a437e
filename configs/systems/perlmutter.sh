# shellcheck shell=bash
# Perlmutter's GPU nodes at NERSC: one EPYC 7763, 4 A100. Most have 40 GB; SBATCH_CONSTRAINT="gpu&hbm80g" and STORMBENCH_GPU_MEMORY=80
# in data.sh ask for the others. The account of GPU jobs ends in _g.
export DGXSYSTEM=Perlmutter
export STORMBENCH_SCHEDULER=slurm
export STORMBENCH_RUNTIME=shifter
export STORMBENCH_MPI=pmi2
export STORMBENCH_LAUNCH_ARGS="--gpu-bind=none --threads-per-core=1"
export STORMBENCH_HOSTS="*.chn.perlmutter.nersc.gov *.perlmutter saul*.nersc.gov"

export STORMBENCH_CORES_PER_NODE=64
export STORMBENCH_CORES_PER_RANK=16
export STORMBENCH_NODE_MEMORY=256
export STORMBENCH_GPUS_PER_NODE=4
export STORMBENCH_GPU_MEMORY=40
export STORMBENCH_GPU_VENDOR=nvidia
# the GPUs hang on the NUMA domains in inverse order
export STORMBENCH_RANK_CORES="48-63 32-47 16-31 0-15"
export STORMBENCH_LIMITS="regular:minutes=2880 debug:nodes=8,minutes=30 interactive:nodes=4,minutes=240"
export MPICH_OFI_NIC_POLICY=GPU

export SBATCH_QOS=regular
export SBATCH_CONSTRAINT=gpu
[ -z "${WALLTIME:-}" ] || export SBATCH_TIMELIMIT=$WALLTIME
[[ -z ${DGXNNODES:-} || $DGXNNODES == *[!0-9]* ]] || export SBATCH_GPUS=$((10#$DGXNNODES * STORMBENCH_GPUS_PER_NODE))
export SBATCH_GPUS_PER_NODE=$STORMBENCH_GPUS_PER_NODE

# shellcheck source=/dev/null
[ ! -f "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh" ] || source "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh"
