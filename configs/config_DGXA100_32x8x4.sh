# shellcheck shell=bash
# DeepCAM on 32 DGX A100: 256 ranks, global batch 1024 (256 x 4), the LAMB recipe known for that batch, as in MLPerf HPC's DGX
# A100 kits.
# shellcheck source=configs/systems/clean.sh
source "$(dirname "${BASH_SOURCE[0]:-$0}")/systems/clean.sh"

export STORMBENCH_BENCHMARK=deepcam
export DGXNNODES=32
export DGXNGPU=8
export WALLTIME=02:00:00

export LOCAL_BATCH_SIZE=4
export LOCAL_VALIDATION_BATCH_SIZE=8
export GRADIENT_ACCUMULATION_FREQUENCY=1
export BATCHNORM_GROUP_SIZE=1
export OPTIMIZER=LAMB
export START_LR=0.004
export WEIGHT_DECAY=0.01
export LR_WARMUP_STEPS=200 LR_WARMUP_FACTOR=1
export LR_SCHEDULE_TYPE=multistep LR_MILESTONES="1100 4096" LR_DECAY_RATE=0.1
export TARGET_IOU=0.82
export MIN_EPOCHS=0 MAX_EPOCHS=50
export PRECISION_MODE=amp
export DATA_FORMAT=numpy
export MAX_THREADS=4

# shellcheck source=configs/systems/dgxa100.sh
source "$(dirname "${BASH_SOURCE[0]:-$0}")/systems/dgxa100.sh"
