# shellcheck shell=bash
# DeepCAM on Frontier: 256 nodes, 2048 ranks (one for each GCD), global batch 2048 (2048 x 1), the LAMB recipe known for that
# batch; this layout itself is unverified.
# shellcheck source=configs/systems/clean.sh
source "$(dirname "${BASH_SOURCE[0]:-$0}")/systems/clean.sh"

export STORMBENCH_BENCHMARK=deepcam
export DGXNNODES=256
export DGXNGPU=8
export WALLTIME=02:00:00

export LOCAL_BATCH_SIZE=1
export LOCAL_VALIDATION_BATCH_SIZE=4
export GRADIENT_ACCUMULATION_FREQUENCY=1
export BATCHNORM_GROUP_SIZE=1
export OPTIMIZER=LAMB
export START_LR=0.0055
export WEIGHT_DECAY=0.01
export LR_WARMUP_STEPS=400 LR_WARMUP_FACTOR=1
export LR_SCHEDULE_TYPE=multistep LR_MILESTONES=800 LR_DECAY_RATE=0.1
export TARGET_IOU=0.82
export MIN_EPOCHS=0 MAX_EPOCHS=50
export PRECISION_MODE=amp-bf16
export DATA_FORMAT=numpy
export MAX_THREADS=4

# shellcheck source=configs/systems/frontier.sh
source "$(dirname "${BASH_SOURCE[0]:-$0}")/systems/frontier.sh"
