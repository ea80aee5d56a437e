#!/usr/bin/env bash
# Job-side entry, started once for each rank by srun, mpirun, jsrun, torchrun or by hand: runs the workload that the
# environment describes and prints the RESULT line of MLPerf's kits. `stormbench variables` lists what it reads.
#
#   source configs/config_local_1x1x2_demo.sh && DATADIR=data LOGDIR=results ./run_and_time.sh
set -uo pipefail

: "${STORMBENCH_BENCHMARK:=deepcam}"
rank=${RANK:-${OMPI_COMM_WORLD_RANK:-${PMIX_RANK:-${PMI_RANK:-${MV2_COMM_WORLD_RANK:-${JSM_NAMESPACE_RANK:-${SLURM_PROCID:-0}}}}}}}

if command -v stormbench >/dev/null 2>&1; then
    program=(stormbench)
else
    program=("${PYTHON:-python3}" -m stormbench)
fi

case $STORMBENCH_BENCHMARK in
    deepcam) command=("${program[@]}" deepcam train) ;;
    *)
        echo "run_and_time.sh: STORMBENCH_BENCHMARK=$STORMBENCH_BENCHMARK is unknown; use deepcam" >&2
        exit 2
        ;;
esac
# ADDITIONAL_ARGS holds several words by design
read -r -a more <<<"${ADDITIONAL_ARGS:-}"

# The scheduler signals this shell; the workload must hear it to write its checkpoint or its last log line.
child=
# shellcheck disable=SC2329  # called by the traps below
forward() { [ -n "$child" ] && kill -s "$1" "$child" 2>/dev/null; }
for name in USR1 TERM INT HUP; do
    # shellcheck disable=SC2064  # the name is meant to be fixed now
    trap "forward $name" "$name"
done

start=$(date +%s)
start_text=$(date '+%Y-%m-%d %I:%M:%S %p')
[ "$rank" = 0 ] && echo "STARTING TIMING RUN AT $start_text"

"${command[@]}" ${more[@]+"${more[@]}"} "$@" &
child=$!
# wait returns early when a signal comes in; the workload's own exit code is the one that counts
while true; do
    wait "$child"
    code=$?
    kill -0 "$child" 2>/dev/null || break
done

end=$(date +%s)
if [ "$rank" = 0 ]; then
    echo "ENDING TIMING RUN AT $(date '+%Y-%m-%d %I:%M:%S %p')"
    if [ "$code" -eq 0 ]; then
        echo "RESULT,${STORMBENCH_BENCHMARK^^},${SEED:-333},$((end - start)),${STORMBENCH_SUBMISSION_ORG:-unspecified},$start_text"
    else
        echo "run_and_time.sh: no RESULT, the workload ended with exit code $code after $((end - start)) s" >&2
    fi
fi
exit "$code"
