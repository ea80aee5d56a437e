# shellcheck shell=bash
# Polaris at ALCF: one 32-core EPYC, 4 A100 of 40 GB, PBS Pro. Compute nodes reach the internet by a proxy only.
# The account is given on the command line: qsub -A PROJECT
export DGXSYSTEM=Polaris
export STORMBENCH_SCHEDULER=pbs
export STORMBENCH_RUNTIME=apptainer
export STORMBENCH_LAUNCH_ARGS="--depth=8 --cpu-bind=depth"
export STORMBENCH_SELECT=system=polaris
export STORMBENCH_DIRECTIVES="-l place=scatter; -l filesystems=home:eagle"
export STORMBENCH_HOSTS="polaris-login-* *.polaris.alcf.anl.gov"

export STORMBENCH_CORES_PER_NODE=32
export STORMBENCH_CORES_PER_RANK=8
export STORMBENCH_NODE_MEMORY=512
export STORMBENCH_GPUS_PER_NODE=4
export STORMBENCH_GPU_MEMORY=40
export STORMBENCH_GPU_VENDOR=nvidia

# prod hands a job on to a queue by its size, and gives a small one less time than these 24 hours: see the site's pages
export STORMBENCH_LIMITS="debug:nodes=2,minutes=60 debug-scaling:nodes=10,minutes=60 prod:min_nodes=10,nodes=496,minutes=1440 \
preemptable:nodes=10,minutes=4320"
export STORMBENCH_QUEUE=prod
[ "${DGXNNODES:-1}" -ge 10 ] || export STORMBENCH_QUEUE=debug-scaling
[ "${DGXNNODES:-1}" -gt 2 ] || export STORMBENCH_QUEUE=debug

# shellcheck source=/dev/null
[ ! -f "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh" ] || source "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh"
