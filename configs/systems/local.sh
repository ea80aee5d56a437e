# shellcheck shell=bash
# This machine: no scheduler, no container, as many cores and GPUs as there are.
export DGXSYSTEM=local
export STORMBENCH_SCHEDULER=local
export STORMBENCH_RUNTIME=none

# shellcheck source=/dev/null
[ ! -f "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh" ] || source "$(dirname "${BASH_SOURCE[0]:-$0}")/../data.sh"
