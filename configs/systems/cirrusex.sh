# shellcheck shell=bash
# Cirrus EX4000 at EPCC: 288 cores, 8 NUMA domains of 36, no GPU. /home is not on the compute nodes.
# sbatch has no variable for the number of nodes: sbatch -N "$DGXNNODES" run.sub
export DGXSYSTEM=CirrusEX
export STORMBENCH_SCHEDULER=slurm
export STORMBENCH_RUNTIME=apptainer
export STORMBENCH_LAUNCH_ARGS="--hint=nomultithread --distribution=block:block"

export STORMBENCH_CORES_PER_NODE=288
export STORMBENCH_CORES_PER_RANK=36
export STORMBENCH_LIMITS="standard:nodes=128,minutes=2880"

export SBATCH_PARTITION=standard
export SBATCH_QOS=standard
export SBATCH_EXCLUSIVE=exclusive
[ -z "${WALLTIME:-}" ] || export SBATCH_TIMELIMIT=$WALLTIME

# shellcheck source=/dev/null
[ ! -f "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh" ] || source "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh"
