# shellcheck shell=bash
# EPCC's Ice Lake test node: one node without a scheduler, no container. No site document confirms more than the published runs tell.
export DGXSYSTEM=EPCC-ICX
export STORMBENCH_UNVERIFIED=1
export STORMBENCH_SCHEDULER=local
export STORMBENCH_RUNTIME=none
export STORMBENCH_LAUNCHER=mpirun

# shellcheck source=/dev/null
[ ! -f "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh" ] || source "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh"
