#!/bin/bash
# CloudMask training on local: 1 node(s) x 1 rank(s), rendered from config_local_1x1x1_cloudmask_demo.sh. Needs nothing but bash
# and the site's own commands; edit it at will.
set -uo pipefail

# bash before 4.4 takes an empty array for a name that is not set
((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || set +u
export CHECK_COMPLIANCE='1'
export CLEAR_CACHES='0'
export DGXNGPU='1'
export DGXNNODES='1'
export DGXSYSTEM='local'
export ENABLE_PROFILING='0'
export NCCL_TEST='0'
export NEXP='1'
export STORMBENCH_BENCHMARK='cloudmask'
export STORMBENCH_BIND='auto'
export STORMBENCH_CLOUDMASK_BATCH_SIZE='1'
export STORMBENCH_CLOUDMASK_EPOCHS='20'
export STORMBENCH_CLOUDMASK_LEARNING_RATE='0.002'
export STORMBENCH_CLOUDMASK_LR_WARMUP_STEPS='20'
export STORMBENCH_CLOUDMASK_STOP_AT_TARGET='1'
export STORMBENCH_CLOUDMASK_TARGET_ACCURACY='0.85'
export STORMBENCH_LAUNCHER='auto'
export STORMBENCH_MAX_REQUEUES='3'
export STORMBENCH_RUNTIME='none'
export STORMBENCH_SCRATCH='/tmp'
export STORMBENCH_WARNING='300'
export STORMBENCH_WIDTH='0.25'
export TRAINING_INSTANCE_SIZE='0'
# What a config sourced before may have left in the shell.
unset \
    LOGGING_FREQUENCY MLPERF_RULESET STORMBENCH_BEST_OF STORMBENCH_CHECKPOINT STORMBENCH_CLOUDMASK_CACHE \
    STORMBENCH_CLOUDMASK_CACHE_DIR STORMBENCH_CLOUDMASK_CLIP_OFFSET STORMBENCH_CLOUDMASK_CLOUD_BITS \
    STORMBENCH_CLOUDMASK_CPU_ONLY STORMBENCH_CLOUDMASK_DATA_THREADS STORMBENCH_CLOUDMASK_INTER_THREADS \
    STORMBENCH_CLOUDMASK_INTRA_THREADS STORMBENCH_CLOUDMASK_LOSS STORMBENCH_CLOUDMASK_NO_CACHE \
    STORMBENCH_CLOUDMASK_ONEDNN STORMBENCH_CLOUDMASK_PATCH_SIZE STORMBENCH_CLOUDMASK_PRECISION \
    STORMBENCH_CLOUDMASK_REPLICAS STORMBENCH_CLOUDMASK_SAVE_EPOCHS STORMBENCH_CLOUDMASK_SCALE_LR \
    STORMBENCH_CLOUDMASK_SPLIT STORMBENCH_CLOUDMASK_SPLIT_FILE STORMBENCH_CLOUDMASK_STRATEGY \
    STORMBENCH_CLOUDMASK_TRAIN_SPLIT STORMBENCH_CLOUDMASK_WBCE STORMBENCH_CLOUDMASK_XLA STORMBENCH_CORES_PER_NODE \
    STORMBENCH_CORES_PER_RANK STORMBENCH_DETERMINISTIC STORMBENCH_ENTRY STORMBENCH_EXPORT STORMBENCH_GPUS_PER_NODE \
    STORMBENCH_GPU_REQUEST STORMBENCH_GPU_TYPE STORMBENCH_GPU_VENDOR STORMBENCH_LAUNCH_ARGS STORMBENCH_MODULES \
    STORMBENCH_MOUNTS STORMBENCH_MPI STORMBENCH_NERSC10 STORMBENCH_NICS STORMBENCH_RANK_CORES \
    STORMBENCH_SAVE_FREQUENCY STORMBENCH_SUBMISSION_DIVISION STORMBENCH_SUBMISSION_ORG \
    STORMBENCH_SUBMISSION_PLATFORM STORMBENCH_SUBMISSION_STATUS STORMBENCH_SUBMISSION_VERSION STORMBENCH_TIMEOUT \
    WALLTIME
# What enters the container, beside the variables of the libraries with these prefixes.
names=(
    CHECK_COMPLIANCE CLEAR_CACHES DATADIR DGXNGPU DGXNNODES DGXSYSTEM ENABLE_PROFILING EXPERIMENT_ID LOGDIR
    NCCL_TEST NEXP RUN_TAG SEED STORMBENCH_BENCHMARK STORMBENCH_BIND STORMBENCH_CACHE STORMBENCH_CACHE_CLEARED
    STORMBENCH_CACHE_REASON STORMBENCH_CLOUDMASK_BATCH_SIZE STORMBENCH_CLOUDMASK_EPOCHS
    STORMBENCH_CLOUDMASK_LEARNING_RATE STORMBENCH_CLOUDMASK_LR_WARMUP_STEPS STORMBENCH_CLOUDMASK_STOP_AT_TARGET
    STORMBENCH_CLOUDMASK_TARGET_ACCURACY STORMBENCH_CONTINUED STORMBENCH_LAUNCHER STORMBENCH_MAX_REQUEUES
    STORMBENCH_RUNTIME STORMBENCH_SCRATCH STORMBENCH_STATUS_FILE STORMBENCH_STOP_FILE STORMBENCH_WARNING
    STORMBENCH_WIDTH TRAINING_INSTANCE_SIZE
)
prefixes='^(NCCL_|FI_|UCX_|MPICH_|OMP_|CUDA_|ROCR_|MIOPEN_|TF_|HOROVOD_|SBATCH_)'

say() { printf 'stormbench: %s\n' "$*"; }

# The first word is the exit code: 2 for what the user has to change, 1 for what failed.
fail() {
    say "${*:2}" >&2
    exit "$1"
}

on() { case ${1,,} in 1 | true | yes | on) return 0 ;; *) return 1 ;; esac; }

whole() {
    [[ ${!1:-} =~ ^(0|[1-9][0-9]*)$ ]] && [ "${!1}" -ge "$2" ] || fail 2 "$1=${!1:-}: must be a whole number of at least $2; it comes from config_local_1x1x1_cloudmask_demo.sh"
}

# Seconds of 90 (minutes), 01:30:00 or 1-12:00:00; nothing for what can't be told.
seconds_of() {
    if [[ $1 =~ ^[0-9]+$ ]]; then
        echo $((10#$1 * 60))
    elif [[ $1 =~ ^(([0-9]+)-)?([0-9]+):([0-9][0-9]):([0-9][0-9])$ ]]; then
        echo $(((10#${BASH_REMATCH[2]:-0} * 24 + 10#${BASH_REMATCH[3]}) * 3600 + 10#${BASH_REMATCH[4]} * 60 + 10#${BASH_REMATCH[5]}))
    fi
}

# Sleeps without a process of its own, which would be left behind when the job is killed.
exec {never}<> <(:)
pause() { read -r -t "$1" -u "$never" || true; }

submit_dir=$PWD index='' script=$0
job_id=$(date +%Y%m%d-%H%M%S)-$$
[ "$DGXNNODES" -eq 1 ] || fail 2 "DGXNNODES=$DGXNNODES: this script runs on this one machine; use a config with one node"

each_node() { "$@" </dev/null; }

# Instance from 0, then the command of each rank. In a container the launcher is the container's own.
launch() {
    local starter=() words=() name
    read -r -a words <<<"${STORMBENCH_LAUNCH_ARGS:-}"
    shift
    if [ "$ranks_per_instance" -gt 1 ]; then
        case $STORMBENCH_LAUNCHER/$STORMBENCH_BENCHMARK in
            torchrun/* | auto/deepcam)
                starter=(torchrun --standalone --no-python --nproc-per-node "$ranks_per_instance" --max-restarts 0)
                ;;
            *)
                starter=(mpirun -np "$ranks_per_instance" --bind-to none)
                [ "$(id -u)" -ne 0 ] || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
                ;;
        esac
    fi
    exec "${inside[@]}" "${starter[@]}" "${words[@]}" "$@" </dev/null
}

launch_one() { "${inside[@]}" "$@" </dev/null; }

requeue() {
    say "no scheduler takes it again here; the same command with RUN_TAG=$tag goes on"
    return 1
}

: "${LOGDIR:=$submit_dir/results}"
case $LOGDIR in /*) ;; *) LOGDIR=$submit_dir/$LOGDIR ;; esac
export LOGDIR
kit=${STORMBENCH_HOME:-$submit_dir}
[ -e "$kit/run_and_time.sh" ] || kit=$(cd -- "$(dirname -- "$script")" 2>/dev/null && pwd) || kit=$submit_dir
job_scratch=${STORMBENCH_SCRATCH%/}/stormbench-$job_id

# The names of those variables that enter the container, one on each line.
container_names() {
    { printf '%s\n' "${names[@]}"; compgen -e | grep -E "$prefixes"; } | sort -u | while read -r name; do [ -z "${!name+set}" ] || echo "$name"; done
}

# No container: the ranks run on the nodes themselves.
inside=()
data_inside='' results_inside=$LOGDIR scratch_inside=$job_scratch
entry=${STORMBENCH_ENTRY:-$kit/run_and_time.sh}
container_prepare() {
    [ -x "$entry" ] || fail 2 "$entry is not there; set STORMBENCH_HOME to the kit's folder on the nodes, or submit from that folder"
    if [ -n "${STORMBENCH_VENV:-}" ]; then
        # shellcheck disable=SC1091  # the site's own environment
        . "$STORMBENCH_VENV/bin/activate" || fail 2 "STORMBENCH_VENV=$STORMBENCH_VENV: can't be activated; give a virtual environment"
    fi
}
container_remove() { :; }
container_enter() { :; }

# The trial loop, the same for every scheduler and runtime. The parts above give launch, launch_one, each_node and requeue.
whole DGXNNODES 1
whole DGXNGPU 1
whole NEXP 1
whole TRAINING_INSTANCE_SIZE 0
whole STORMBENCH_MAX_REQUEUES 0
[[ ${ADDITIONAL_ARGS:-} != *[\"\']* ]] || fail 2 "ADDITIONAL_ARGS=$ADDITIONAL_ARGS: is split at blanks and knows no quotes; write lists with colons, such as --lr_milestones 5:10"
nodes=$DGXNNODES ranks_per_node=$DGXNGPU ranks=$((DGXNNODES * DGXNGPU)) instances=1
if [ "$TRAINING_INSTANCE_SIZE" -gt 0 ]; then
    [ $((TRAINING_INSTANCE_SIZE % ranks_per_node)) -eq 0 ] && [ $((ranks % TRAINING_INSTANCE_SIZE)) -eq 0 ] ||
        fail 2 "TRAINING_INSTANCE_SIZE=$TRAINING_INSTANCE_SIZE: $nodes nodes of $ranks_per_node ranks don't divide into such instances on whole nodes"
    instances=$((ranks / TRAINING_INSTANCE_SIZE))
fi
nodes_per_instance=$((nodes / instances)) ranks_per_instance=$((ranks / instances))
cores=${STORMBENCH_CORES_PER_RANK:-0}
[ "$cores" -gt 0 ] || cores=$((${STORMBENCH_CORES_PER_NODE:-0} / ranks_per_node))

# A job that goes on keeps its run folder's name, whatever number the scheduler gives it.
tag=${STORMBENCH_RESUME_TAG:-${RUN_TAG:-$STORMBENCH_BENCHMARK-${DGXSYSTEM:-system}-${nodes}x$ranks_per_node-${DATESTAMP:-$job_id}}}
if [ -z "${STORMBENCH_RESUME_TAG:-}" ] && [ -n "$index" ] && [ -n "${RUN_TAG:-${DATESTAMP:-}}" ]; then tag+=-a$index; fi
folder=$LOGDIR/$tag state=$LOGDIR/$tag/job_state
mkdir -p "$folder" || fail 1 "LOGDIR=$LOGDIR: the run folder $tag can't be made there"
# Two jobs in one folder would mix their results. Where the file system has no locks, nothing is refused.
if command -v flock >/dev/null && exec {lock}>>"$folder/.lock"; then
    timeout 20 flock -n "$lock" 2>/dev/null
    [ $? -ne 1 ] || fail 2 "RUN_TAG=$tag: another job is at work in $folder; wait for its end or take another RUN_TAG (if there is none, remove .lock there)"
fi
# by way of another name, as this very file may be what runs
cp -- "$0" "$folder/.job.sh" 2>/dev/null && mv -f -- "$folder/.job.sh" "$folder/job.sh" || true
if [ -n "${DATADIR:-}" ] && [ "${DATA_FORMAT:-}" != dummy ]; then
    [ -d "$DATADIR" ] || fail 2 "DATADIR=$DATADIR: no such folder here; give the folder with the data"
    DATADIR=$(cd -- "$DATADIR" && pwd)
fi
if [ -n "$data_inside" ]; then
    for name in LOGDIR DATADIR job_scratch; do
        [[ ${!name:-} != *[:,\;]* ]] || fail 2 "$name=${!name}: has a colon, comma or semicolon, which container runtimes can't mount; take another path"
    done
fi

last_of() { [ ! -e "$state" ] || sed -n "s/^$1 //p" "$state" | tail -n 1; }
code_of() { [ ! -e "$state" ] || sed -n "s/^trial $1 seed [0-9]* code //p" "$state" | tail -n 1; }
note() { printf '%s\n' "$*" >>"$state" || fail 1 "$state: can't be written"; }

# A new submission under the name of an earlier one does its failed trials again; one that went well is never done twice.
if [ "$(last_of started)" != "$job_id" ]; then
    if [ -e "$state" ] && [ -z "${STORMBENCH_RESUME_TAG:-}" ]; then
        sed '/^trial [0-9]* seed [0-9]* code [1-9]/d' "$state" >"$state.partial" && mv -- "$state.partial" "$state"
    fi
    note "started $job_id"
fi
restarts=$(last_of restarts) base=$(last_of seed) step=1
restarts=${restarts:-0}
if [ -n "$index" ] && [ -n "${STORMBENCH_SEEDS:-}" ]; then
    read -r -a array_seeds <<<"${STORMBENCH_SEEDS//[,:]/ }"
    # trials of one array job keep clear of the seeds of its neighbours
    SEED='' step=100003
    [ "$index" -lt 1 ] || SEED=${array_seeds[index - 1]:-}
    [ -n "$SEED" ] || fail 2 "STORMBENCH_SEEDS=$STORMBENCH_SEEDS: has no seed for job $index of the array, which count from 1"
elif [ -n "$index" ] && [[ ${SEED:-} =~ ^[1-9][0-9]*$ ]]; then
    SEED=$((SEED + 100003 * index))
fi
if [ -z "$base" ]; then
    # the rules of CloudMask fix the seed for every trial
    if [ "$STORMBENCH_BENCHMARK" = cloudmask ] && [ -z "${SEED:-}" ]; then SEED=1234 step=0; fi
    # without a seed the clock decides, as MLPerf HPC asks
    base=${SEED:-$(($(date +%s) % 1000000000 + 1 + ${index:-0} * 1000))}
    [[ $base =~ ^[1-9][0-9]*$ ]] || fail 2 "SEED=$base: must be a whole number of at least 1"
    note "seed $base"
    [ "$step" -eq 1 ] || note "step $step"
else
    # PBS resubmits a job of an array as one without an index
    kept=$(last_of step)
    step=${kept:-$step}
fi
# trial, instance from 0: another seed for each
seed_of() { echo $(((base - 1 + step * (($1 - 1) * instances + $2)) % 4294967295 + 1)); }
tag_of() { if [ "$instances" -eq 1 ]; then echo "$tag"; else echo "$tag-i$(($1 + 1))"; fi; }

warned='' cancelled='' prepared='' clock=''
stop_file=$folder/.stop-$job_id-$restarts
# left by this job where it was killed and queued again, as when it was preempted
rm -f -- "$stop_file"
# Rank 0 of each model watches for the stop file: it needs no launcher that hands signals on, and no process id in a container.
ask_to_stop() { : >"$stop_file"; }
# How long before a limit of so many seconds the job stops; unless it is told, five minutes, or a quarter of a short limit.
margin_of() { echo "${STORMBENCH_WARNING:-$(($1 < 1200 ? $1 / 4 : 300))}"; }
warn_later() {
    (
        trap - EXIT USR1 TERM INT HUP
        pause "$1"
        kill -s USR1 $$
    ) &
    clock=$!
}
# shellcheck disable=SC2329  # called by a trap, as are the next two
warn() {
    local margin early
    margin=$(margin_of "${limit_s:-1200}")
    [ "$margin" -gt 0 ] || return 0
    # Slurm warns up to a minute early, and at once where the limit is shorter than what the directive says
    early=$((${limit_s:-0} - SECONDS - margin))
    if [ "$early" -gt 2 ]; then
        warn_later "$early"
        return
    fi
    warned=1
    say "the time limit is near: the workload is asked to write its checkpoint and stop"
    ask_to_stop
}
# shellcheck disable=SC2329
cancel() {
    cancelled=$1
    # the word tells the ranks to clean their node's scratch folder, to which some schedulers let a cancelled job send nobody
    echo cancelled >"$stop_file"
}
tidy() {
    [ -n "$prepared" ] || return 0
    prepared=''
    container_remove
    # a cancelled job gets no further step from some schedulers: then at least this node is clean
    each_node rm -rf -- "$job_scratch" >/dev/null 2>&1 || rm -rf -- "$job_scratch"
}
# shellcheck disable=SC2329
clean_up() {
    trap '' TERM INT HUP USR1 USR2
    [ -z "$clock" ] || kill "$clock" 2>/dev/null
    tidy
    rm -f -- "$stop_file" "$folder"/.hosts_*
}
trap warn USR1
[ -z "${warned_early:-}" ] || warn
trap 'cancel 143' TERM
trap 'cancel 130' INT
trap 'cancel 129' HUP
trap clean_up EXIT

# Drops the file cache of the node it runs on, and says so only where that worked.
# shellcheck disable=SC2016  # the node's own shell expands it
drop='sync; if [ -w /proc/sys/vm/drop_caches ]; then echo 3 >/proc/sys/vm/drop_caches; else sudo -n /sbin/sysctl -q vm.drop_caches=3; fi && echo "dropped $(hostname)"'
clear_caches() {
    local dropped
    export STORMBENCH_CACHE_CLEARED=0 STORMBENCH_CACHE_REASON
    STORMBENCH_CACHE_REASON="CLEAR_CACHES was not set for this job"
    on "$CLEAR_CACHES" || return 0
    dropped=$(each_node bash -c "$drop" 2>/dev/null | grep '^dropped ' | sort -u | grep -c .)
    if [ "$dropped" -eq "$nodes" ]; then
        STORMBENCH_CACHE_CLEARED=1 STORMBENCH_CACHE_REASON=''
    else
        STORMBENCH_CACHE_REASON="the caches of only $dropped of $nodes nodes could be dropped"
        say "cache_clear is logged as false: $STORMBENCH_CACHE_REASON"
    fi
}

# Shows and keeps what comes. Schedulers signal every process of a job, and without it the workload's last words would be lost.
keep() {
    trap '' USR1 USR2 TERM INT HUP
    exec tee -a "$1"
}

# Runs in a process of its own: trial, instance from 0, name of the run folder. Leaves the launcher's exit code in a file.
start_instance() {
    local launcher code
    trap : USR1 TERM HUP INT
    SEED=$(seed_of "$1" "$2")
    export SEED EXPERIMENT_ID=$1 RUN_TAG=$3 STORMBENCH_CONTINUED=$cuts
    export STORMBENCH_STATUS_FILE=$results_inside/$3/.status_$1 STORMBENCH_STOP_FILE=$results_inside/$tag/${stop_file##*/}
    # last, as it lists the variables that enter the container
    enter
    launch "$2" "$entry" &
    launcher=$!
    echo "$launcher" >"$folder/.launcher_$2"
    while true; do
        wait "$launcher"
        code=$?
        kill -0 "$launcher" 2>/dev/null || break
    done
    echo "$code" >"$folder/.code_$2"
}

# Makes paths and variables what they are where the ranks run.
enter() {
    export STORMBENCH_CACHE=$scratch_inside
    container_enter
    [ -z "${DATADIR:-}" ] || export DATADIR=${data_inside:-$DATADIR}
    export LOGDIR=$results_inside
}

await() {
    local pid=$1 waited=0
    while true; do
        if [ -z "$cancelled" ]; then wait "$pid"; else pause 1; fi
        kill -0 "$pid" 2>/dev/null || break
        # who was cancelled and does not end by the stop file is ended
        [ -z "$cancelled" ] || waited=$((waited + 1))
        # what outlives its launcher may hold the pipe open
        [ "$waited" -ne 50 ] || kill -s KILL "$pid" 2>/dev/null
        if [ "$waited" -eq 20 ] || [ "$waited" -eq 40 ]; then
            for launcher in "$folder"/.launcher_*; do kill -s "$([ "$waited" -eq 20 ] && echo TERM || echo KILL)" "$(<"$launcher")" 2>/dev/null; done
        fi
    done
}

# The workload's own code, which a launcher may hide: torchrun and some mpiexecs turn each into 1.
instance_code() {
    local code told
    code=$(cat "$folder/.code_$2" 2>/dev/null) || code=1
    # empty where the disk was full
    [ -n "$code" ] || code=1
    told=$(cat "$LOGDIR/$3/.status_$1" 2>/dev/null) || told=''
    rm -f -- "$LOGDIR/$3/.status_$1"
    if [ -z "$told" ] && [ "$code" -eq 0 ]; then
        say "trial $1: the launcher ended well, but no rank 0 reported; was run_and_time.sh started?" >&2
        code=1
    elif [ -n "$told" ] && { [ "$told" -ne 0 ] && [ "$told" -ne 143 ] || [ "$code" -eq 0 ]; }; then
        # 143 only tells that the launcher ended rank 0, as another rank had failed
        code=$told
    fi
    echo "$code"
}

# Run folder, trial: whether the workload's log is complete. Then it would refuse to run again, and only the verdict is missing,
# as where the job was killed during the check.
is_complete() { grep -s '"key": "run_stop"' "$LOGDIR/$1/result_$2.txt" | tail -n 1 | grep -qE '"(success|target missed)"'; }

run_trial() {
    local trial=$1 i one code=0 cuts pids=() folders=() record=${CONT:+${CONT%/*}/image.json}
    say "trial $trial of $NEXP: $instances model(s) of $ranks_per_instance ranks on $nodes_per_instance node(s), seed(s) $(seed_of "$trial" 0)$([ "$instances" -eq 1 ] || echo " to $(seed_of "$trial" $((instances - 1)))")"
    clear_caches
    # by its time limit, a lost node or a cancellation: its times are no valid result
    cuts=$(($(grep -c "^begun $trial\$" "$state") - $(grep -c "^refused $trial\$" "$state")))
    note "begun $trial"
    rm -f -- "$folder"/.launcher_* "$folder"/.code_*
    for ((i = 0; i < instances; i++)); do
        folders[i]=$(tag_of "$i")
        mkdir -p "$LOGDIR/${folders[i]}"
        rm -f -- "$LOGDIR/${folders[i]}/.status_$trial"
        # what the image's export has written down of it
        [ ! -f "$record" ] || cp -- "$record" "$LOGDIR/${folders[i]}/image.json"
        if is_complete "${folders[i]}" "$trial"; then
            say "trial $trial: ${folders[i]} has its complete log already, which is judged again"
            continue
        fi
        start_instance "$trial" "$i" "${folders[i]}" 2>&1 | keep "$LOGDIR/${folders[i]}/trial_$trial.out" &
        pids[i]=$!
    done
    for ((i = 0; i < instances; i++)); do [ -z "${pids[i]:-}" ] || await "${pids[i]}"; done
    for ((i = 0; i < instances; i++)); do
        [ -n "${pids[i]:-}" ] || continue
        one=$(instance_code "$trial" "$i" "${folders[i]}")
        # a failure tells more than a stop
        [ "$one" -eq 0 ] || { [ "$one" -eq 75 ] && [ "$code" -ne 0 ]; } || code=$one
    done
    if [ "$code" -eq 0 ] && on "$CHECK_COMPLIANCE"; then
        check_logs "$trial" "${folders[@]}" || code=1
    fi
    rm -f -- "$folder"/.launcher_* "$folder"/.code_*
    [ "$code" -eq 75 ] || { [ -n "$cancelled" ] && [ "$code" -ne 0 ]; } || note "trial $trial seed $(seed_of "$trial" 0) code $code"
    return "$code"
}

# The official checker on the logs of a trial; a missed target alone is no failure.
check_logs() (
    trial=$1
    shift
    enter
    launch_one "$entry" check "${@/#/$results_inside/}" "$trial"
)

all_reduce_test() (
    enter
    say "all-reduce test over $ranks ranks"
    instances=1 nodes_per_instance=$nodes ranks_per_instance=$ranks
    launch 0 "$entry" allreduce
)

main() {
    local trial code failed=0 left=0 done_before=0
    each_node mkdir -p -- "$job_scratch" || fail 1 "STORMBENCH_SCRATCH=$STORMBENCH_SCRATCH: the folder $job_scratch can't be made on every node"
    prepared=1
    container_prepare
    if on "$NCCL_TEST" && [ "$restarts" -eq 0 ]; then
        all_reduce_test || fail 1 "the all-reduce test failed, so no trial was started; see its words above"
    fi
    for ((trial = 1; trial <= NEXP; trial++)); do
        code=$(code_of "$trial")
        if [ -n "$code" ]; then
            done_before=$((done_before + 1))
        elif [ -n "$warned" ] || [ -n "$cancelled" ]; then
            left=$((left + 1))
            continue
        else
            run_trial "$trial"
            code=$?
        fi
        case $code in
            0) ;;
            75) left=$((left + 1)) ;;
            2)
                # a signal to all processes of the job can make a launcher lose half of its words
                if [ -n "$cancelled" ]; then
                    left=$((left + 1))
                    continue
                fi
                note "refused $trial"
                note "done 2"
                fail 2 "trial $trial: the workload refused its input; see its words above"
                ;;
            *) [ -n "$cancelled" ] && left=$((left + 1)) || failed=$((failed + 1)) ;;
        esac
        [ "$code" != 75 ] || [ -n "$warned$cancelled" ] || break
    done
    for ((trial = 1; trial <= NEXP; trial++)); do
        code=$(code_of "$trial")
        say "trial $trial: seed $(seed_of "$trial" 0), $([ -n "$code" ] && echo "exit code $code" || echo "not finished")"
    done
    [ "$done_before" -eq 0 ] || say "$done_before trial(s) had been done before this start"
    [ "$restarts" -eq 0 ] || say "continued $restarts time(s) after its time limit: the times of a trial that was cut are no valid MLPerf results"
    if [ -n "$cancelled" ]; then
        say "cancelled; the same job with RUN_TAG=$tag continues it"
        note "done $cancelled"
        exit "$cancelled"
    fi
    if [ "$left" -gt 0 ]; then
        if [ -n "$warned" ] && [ "$restarts" -lt "$STORMBENCH_MAX_REQUEUES" ]; then
            note "restarts $((restarts + 1))"
            # before, as Slurm and LSF end this script
            tidy
            requeue && exit 75
            say "the scheduler did not take the job again" >&2
        elif [ -n "$warned" ]; then
            say "it has been continued $restarts time(s), STORMBENCH_MAX_REQUEUES=$STORMBENCH_MAX_REQUEUES allows no more" >&2
        fi
        say "stopped with $left trial(s) to finish; the same job with RUN_TAG=$tag continues it" >&2
        note "done 75"
        exit 75
    fi
    note "done $((failed > 0))"
    [ "$failed" -eq 0 ] || fail 1 "$failed of $NEXP trial(s) failed or are non-compliant"
    say "all $NEXP trial(s) done; run folder $folder"
}

wall=$(seconds_of "${WALLTIME:-}")
margin=$(margin_of "${wall:-0}")
if [ -n "$wall" ] && [ "$margin" -gt 0 ] && [ "$wall" -gt "$margin" ]; then warn_later $((wall - margin)); fi

main
