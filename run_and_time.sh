#!/usr/bin/env bash
# Job-side entry, started once for each rank by srun, mpirun, jsrun, torchrun or by hand: runs the workload that the
# environment describes and prints the RESULT line of MLPerf's kits. `stormbench variables` lists what it reads.
#
#   source configs/config_local_1x1x2_demo.sh && DATADIR=data LOGDIR=results ./run_and_time.sh
#
# Job scripts also start it with one of two first words: `check FOLDER... TRIAL` judges the logs of a trial, `allreduce` tests
# the network between all ranks. Other words on the command line go to the workload as they are. ADDITIONAL_ARGS is split at blanks and knows no quotes, so a
# list in it is written with colons: ADDITIONAL_ARGS="--lr_schedule_type multistep --lr_milestones 5:10".
set -uo pipefail
# bash before 4.4, as in older images, takes an empty array for a name that is not set
((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || set +u

: "${STORMBENCH_BENCHMARK:=deepcam}"
rank=${RANK:-${OMPI_COMM_WORLD_RANK:-${PMIX_RANK:-${PMI_RANK:-${PALS_RANKID:-${MV2_COMM_WORLD_RANK:-${JSM_NAMESPACE_RANK:-${SLURM_PROCID:-0}}}}}}}}

if command -v stormbench >/dev/null 2>&1; then
    program=(stormbench)
else
    program=("${PYTHON:-python3}" -m stormbench)
fi

case $STORMBENCH_BENCHMARK in
    deepcam) default_seed=333 ;;
    cloudmask) default_seed=1234 ;;
    *)
        echo "run_and_time.sh: STORMBENCH_BENCHMARK=$STORMBENCH_BENCHMARK is unknown; use deepcam or cloudmask" >&2
        exit 2
        ;;
esac
command=("${program[@]}" "$STORMBENCH_BENCHMARK" train)
on() { case ${1,,} in 1 | true | yes | on) return 0 ;; *) return 1 ;; esac; }

case ${1:-} in
    check)
        folders=("${@:2:$#-2}")
        exec "${program[@]}" results check --any_settings "${folders[@]/%//result_${*: -1}.txt}"
        ;;
    allreduce)
        shift
        exec "${program[@]}" "$STORMBENCH_BENCHMARK" allreduce "$@"
        ;;
esac

# Compilers and libraries keep caches, which may not lie in a home folder that nodes or images don't have.
cache=${STORMBENCH_CACHE:-}
if [ -n "$cache" ] && mkdir -p "$cache/cache" 2>/dev/null; then
    export XDG_CACHE_HOME=${XDG_CACHE_HOME:-$cache/cache} TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$cache/triton}
    export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$cache/inductor}
    export MIOPEN_USER_DB_PATH=${MIOPEN_USER_DB_PATH:-$cache/miopen} MIOPEN_CUSTOM_CACHE_DIR=${MIOPEN_CUSTOM_CACHE_DIR:-$cache/miopen}
    mkdir -p "$MIOPEN_USER_DB_PATH" "$MIOPEN_CUSTOM_CACHE_DIR"
fi

local_rank=${LOCAL_RANK:-${OMPI_COMM_WORLD_LOCAL_RANK:-${MV2_COMM_WORLD_LOCAL_RANK:-${PALS_LOCAL_RANKID:-${MPI_LOCALRANKID:-${JSM_NAMESPACE_LOCAL_RANK:-${SLURM_LOCALID:-0}}}}}}}
ranks_here=${DGXNGPU:-1}
wrapper=()

# The cores of a list such as 0-3,8, one on each line.
cores_of() {
    local part parts
    IFS=, read -r -a parts <<<"$1"
    for part in "${parts[@]}"; do seq "${part%-*}" "${part#*-}"; done
}

# Binds this rank to its share of the node where the launcher has not bound it: cores, the memory near them, its network card.
bind_rank() {
    local allowed mine words nics
    [ "${STORMBENCH_BIND:-none}" = auto ] || return 0
    read -r -a nics <<<"${STORMBENCH_NICS:-}"
    if [ "${#nics[@]}" -gt 0 ]; then
        export UCX_NET_DEVICES=${UCX_NET_DEVICES:-${nics[local_rank * ${#nics[@]} / ranks_here % ${#nics[@]}]}:1}
    fi
    # each rank sees one of AMD's GPUs, unless the launcher has chosen it
    if [ "${STORMBENCH_GPU_VENDOR:-none}" = amd ] && [ "$ranks_here" -gt 1 ]; then
        export ROCR_VISIBLE_DEVICES=${ROCR_VISIBLE_DEVICES:-$local_rank}
    fi
    mapfile -t allowed < <(cores_of "$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status 2>/dev/null)")
    read -r -a words <<<"${STORMBENCH_RANK_CORES:-}"
    if [ "${#words[@]}" -gt "$local_rank" ]; then
        mine=${words[local_rank]}
    elif [ "$ranks_here" -gt 1 ] && [ "${#allowed[@]}" -ge "$ranks_here" ] && [ "${#allowed[@]}" -ge $((${STORMBENCH_CORES_PER_RANK:-0} * ranks_here)) ] &&
        [ "${#allowed[@]}" -gt "${STORMBENCH_CORES_PER_RANK:-0}" ]; then
        share=$((${#allowed[@]} / ranks_here))
        mine=$(IFS=, && echo "${allowed[*]:local_rank * share:share}")
    else
        mine=''
    fi
    # a list that this node does not have, as in a rehearsal, binds nothing
    if [ -n "$mine" ] && command -v taskset >/dev/null && ! taskset -c "$mine" true 2>/dev/null; then mine=''; fi
    if command -v numactl >/dev/null && numactl ${mine:+--physcpubind="$mine"} --localalloc true 2>/dev/null; then
        wrapper=(numactl ${mine:+--physcpubind="$mine"} --localalloc)
    elif [ -n "$mine" ] && command -v taskset >/dev/null; then
        wrapper=(taskset -c "$mine")
    fi
}
bind_rank

if on "${ENABLE_PROFILING:-0}" && [ "$local_rank" = 0 ]; then
    command -v nsys >/dev/null || {
        echo "run_and_time.sh: ENABLE_PROFILING=1, but nsys is not in the search path of $(hostname); install Nsight Systems there, or set it to 0" >&2
        exit 2
    }
    mkdir -p "${LOGDIR:-.}/${RUN_TAG:-profile}"
    wrapper+=(nsys profile "--trace=cuda,nvtx,cudnn,osrt" --force-overwrite=true --output="${LOGDIR:-.}/${RUN_TAG:-profile}/profile_${EXPERIMENT_ID:-1}_rank$rank")
fi
case ${ADDITIONAL_ARGS:-} in
    *[\"\']*)
        echo "run_and_time.sh: ADDITIONAL_ARGS=$ADDITIONAL_ARGS: is split at blanks and knows no quotes; write lists with colons, such as --lr_milestones 5:10" >&2
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

# Where the workload tells what the RESULT line repeats, and where rank 0 leaves its exit code, which launchers hide.
facts=''
if [ "$rank" = 0 ] && facts=$(mktemp 2>/dev/null); then export STORMBENCH_RESULT_FILE=$facts; fi

"${wrapper[@]}" "${command[@]}" ${more[@]+"${more[@]}"} "$@" &
child=$!

# The job script asks to stop by a file: that needs neither a launcher that hands signals on nor a process id in a container.
watch=''
if [ "$rank" = 0 ] && [ -n "${STORMBENCH_STOP_FILE:-}" ]; then
    exec {never}<> <(:)
    (
        trap - USR1 TERM INT HUP
        until [ -e "$STORMBENCH_STOP_FILE" ]; do read -r -t 1 -u "$never"; done
        # a program that is only just starting would die of the signal: its mask of caught signals tells when it hears USR1
        while caught=$(sed -n 's/^SigCgt:[[:space:]]*//p' "/proc/$child/status" 2>/dev/null) && [ $((16#${caught:-200} & 16#200)) -eq 0 ]; do
            read -r -t 0.1 -u "$never"
        done
        kill -s USR1 "$child" 2>/dev/null
    ) &
    watch=$!
fi
[ -z "$remembered" ] || forward "$remembered"
# A signal makes wait return early with its own number. Only a wait that none disturbed tells the workload's exit code, which
# the shell remembers also where the workload ended meanwhile.
while true; do
    signalled=''
    wait "$child"
    code=$?
    [ -n "$signalled" ] || break
done
# A command of its own for the time could be ended by the signal that ends the job.
printf -v end '%(%s)T' -1
if [ "$local_rank" = 0 ] && [ -n "$cache" ] && grep -qsx cancelled "${STORMBENCH_STOP_FILE:-}"; then rm -rf -- "$cache" 2>/dev/null; fi
fact() { [ -z "$facts" ] || sed -n "s/^$1=//p" "$facts" | tail -n 1; }
# bash 5.2 can lose the code of a child that ends at the very moment of a signal; then the workload's own word counts
if [ "$code" -lt 0 ]; then
    code=$(fact exit_code)
    code=${code:-143}
fi

if [ "$rank" = 0 ]; then
    [ -z "$watch" ] || kill "$watch" 2>/dev/null
    [ -z "${STORMBENCH_STATUS_FILE:-}" ] || echo "$code" >"$STORMBENCH_STATUS_FILE"
    echo "ENDING TIMING RUN AT $(date '+%Y-%m-%d %I:%M:%S %p')"
    if [ "$code" -eq 0 ]; then
        echo "RESULT,${STORMBENCH_BENCHMARK^^},${SEED:-$default_seed},$((end - start)),${STORMBENCH_SUBMISSION_ORG:-unspecified},$start_text,time_to_target_s=$(fact time_to_target_s),time_to_16_epochs_s=$(fact time_to_16_epochs_s),continued=${STORMBENCH_CONTINUED:-0}"
    else
        echo "run_and_time.sh: no RESULT, the workload ended with exit code $code after $((end - start)) s" >&2
    fi
    [ -z "$facts" ] || rm -f "$facts"
elif [ -n "${STORMBENCH_STATUS_FILE:-}" ]; then
    # Launchers end all ranks when one ends with a code, and rank 0, which has the most to write, would lose its last words. A stop
    # was agreed on by all, and rank 0 tells it; a mistake in the input is found by all at about the same time.
    case $code in
        75) code=0 ;;
        2) sleep 3 ;;
    esac
fi
exit "$code"
