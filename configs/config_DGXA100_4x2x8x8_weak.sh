# shellcheck shell=bash
# DeepCAM on 8 DGX A100, weak scaling: 4 models side by side, each on 2 nodes with 16 ranks and global batch 128 (16 x 8), the
# LAMB recipe known for that batch.
# shellcheck source=configs/systems/clean.sh
source "$(dirname "${BASH_SOURCE[0]:-$0}")/systems/clean.sh"

export STORMBENCH_BENCHMARK=deepcam
export DGXNNODES=8
export DGXNGPU=8
export TRAINING_INSTANCE_SIZE=16
export WALLTIME=04:00:00

export LOCAL_BATCH_SIZE=8
export LOCAL_VALIDATION_BATCH_SIZE=8
export GRADIENT_ACCUMULATION_FREQUENCY=1
export BATCHNORM_GROUP_SIZE=1
export OPTIMIZER=LAMB
export START_LR=0.00155
export WEIGHT_DECAY=0.01
export LR_WARMUP_STEPS=0 LR_WARMUP_FACTOR=1
export LR_SCHEDULE_TYPE=cosine_annealing LR_T_MAX=9000 LR_ETA_MIN=0
export TARGET_IOU=0.82
export MIN_EPOCHS=0 MAX_EPOCHS=50
export PRECISION_MODE=amp
export DATA_FORMAT=numpy
export MAX_THREADS=4

# shellcheck source=configs/systems/dgxa100.sh
source "$(dirname "${BASH_SOURCE[0]:-$0}")/systems/dgxa100.sh"
