# shellcheck shell=bash
# EPCC's Cascade Lake test nodes: 4 ranks a node, no container. No site document confirms more than the published runs tell; they don't
# tell the number of cores: name it in data.sh as STORMBENCH_CORES_PER_NODE, else each rank gets one.
# sbatch has no variable for the number of nodes: sbatch -N "$DGXNNODES" run.sub
export DGXSYSTEM=EPCC-CLX
export STORMBENCH_UNVERIFIED=1
export STORMBENCH_SCHEDULER=slurm
export STORMBENCH_RUNTIME=none

export SBATCH_EXCLUSIVE=exclusive
[ -z "${WALLTIME:-}" ] || export SBATCH_TIMELIMIT=$WALLTIME

# shellcheck source=/dev/null
[ ! -f "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh" ] || source "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh"
