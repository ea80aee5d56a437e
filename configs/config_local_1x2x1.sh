# shellcheck shell=bash
# Two ranks on this machine, global batch 2 (2 x 1), a quarter of the network's width, for small generated frames.
# A rehearsal of the whole path with more than one rank, not the benchmark: its figures compare with nothing published.
# shellcheck source=configs/systems/clean.sh
source "$(dirname "${BASH_SOURCE[0]:-$0}")/systems/clean.sh"

export STORMBENCH_BENCHMARK=deepcam
export DGXNNODES=1
export DGXNGPU=2

export LOCAL_BATCH_SIZE=1
export LOCAL_VALIDATION_BATCH_SIZE=2
export STORMBENCH_WIDTH=0.25
export OPTIMIZER=AdamW
export START_LR=0.002
export WEIGHT_DECAY=0.01
export LR_WARMUP_STEPS=96
export LR_SCHEDULE_TYPE=cosine_annealing
export LR_T_MAX=480
export MAX_EPOCHS=6
export TARGET_IOU=0.82

# shellcheck source=configs/systems/local.sh
source "$(dirname "${BASH_SOURCE[0]:-$0}")/systems/local.sh"
