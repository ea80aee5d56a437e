# shellcheck shell=bash
# ARCHER2's CPU nodes at EPCC: two EPYC 7742, 8 NUMA domains of 16 cores. Neither /home nor the internet is there on the compute nodes.
# sbatch has no variable for the number of nodes: sbatch -N "$DGXNNODES" run.sub
export DGXSYSTEM=ARCHER2
export STORMBENCH_SCHEDULER=slurm
export STORMBENCH_RUNTIME=apptainer
export STORMBENCH_LAUNCH_ARGS="--hint=nomultithread --distribution=block:block"
# the image's MPI gives way to the site's, which has the same binary interface
export STORMBENCH_MODULES=cray-mpich-abi
export STORMBENCH_MOUNTS="/opt/cray:/opt/cray /var/spool:/var/spool"
export STORMBENCH_HOSTS="ln[0-9][0-9] uan[0-9][0-9] dvn[0-9][0-9]"

export STORMBENCH_CORES_PER_NODE=128
export STORMBENCH_NODE_MEMORY=256
export STORMBENCH_LIMITS="standard:nodes=1024,minutes=1440 short:nodes=32,minutes=20 long:nodes=64,minutes=5760 largescale:minutes=720"

export SBATCH_PARTITION=standard
export SBATCH_QOS=standard
export SBATCH_EXCLUSIVE=exclusive
[ -z "${WALLTIME:-}" ] || export SBATCH_TIMELIMIT=$WALLTIME

# shellcheck source=/dev/null
[ ! -f "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh" ] || source "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh"
