#!/usr/bin/env bash
# Job-side entry, started once for each rank by srun, mpirun, jsrun, torchrun or by hand: runs the workload that the
# environment describes and prints the RESULT line of MLPerf's kits. `stormbench variables` lists what it reads.
#
#   source configs/config_local_1x1x2_demo.sh && DATADIR=data LOGDIR=results ./run_and_time.sh
#
# Words on the command line go to the workload as they are. ADDITIONAL_ARGS is split at blanks and knows no quotes, so a
# list in it is written with colons: ADDITIONAL_ARGS="--lr_schedule_type multistep --lr_milestones 5:10".
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
read -r -a more <<<"${ADDITIONAL_ARGS:-}"

# The scheduler signals this shell; the workload must hear it to write its checkpoint or its last log line.
child='' remembered='' signalled='' polite=USR1

forward() {
    signalled=$1
    if [ -n "$child" ]; then
        kill -s "$1" "$child" 2>/dev/null
    else
        remembered=$1
    fi
}

# Slurm and mpirun signal every process of a step, so the workload may have had this TERM by itself, and a second one
# would end it without its checkpoint. USR1 asks for the same, however often it comes.
# shellcheck disable=SC2329  # called by a trap, as is the next function
terminate() {
    if [ -n "$child" ]; then
        forward "$polite"
        polite=TERM
    else
        forward TERM
    fi
}

# Ctrl-C reaches the whole process group: a workload that heeds it is about to end and must not be disturbed. One that did
# not hear it, as only this shell was signalled or the shell started it with INT ignored, is stopped by TERM: after 6 s, as
# an interrupted run takes up to 5 s to end.
# shellcheck disable=SC2329
interrupt() {
    signalled=INT
    if [ -n "$child" ]; then
        for ((i = 0; i < 60; i++)); do
            kill -0 "$child" 2>/dev/null || return
            sleep 0.1
        done
    fi
    forward TERM
}
trap 'forward USR1' USR1
trap terminate TERM
trap interrupt INT HUP

start=$(date +%s)
start_text=$(date '+%Y-%m-%d %I:%M:%S %p')
[ "$rank" = 0 ] && echo "STARTING TIMING RUN AT $start_text"

"${command[@]}" ${more[@]+"${more[@]}"} "$@" &
child=$!
[ -z "$remembered" ] || forward "$remembered"
# A signal makes wait return early with its own number. Only a wait that none disturbed tells the workload's exit code, which
# the shell remembers also where the workload ended meanwhile.
while true; do
    signalled=''
    wait "$child"
    code=$?
    [ -n "$signalled" ] || break
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
