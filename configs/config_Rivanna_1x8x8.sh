# shellcheck shell=bash
# DeepCAM on one A100 node of UVA's Rivanna / Afton: 8 ranks, global batch 128 (8 x 8, accumulation 2), the LAMB recipe known
# for that batch; this layout itself is unverified.
# shellcheck source=configs/systems/clean.sh
source "$(dirname "${BASH_SOURCE[0]:-$0}")/systems/clean.sh"

export STORMBENCH_BENCHMARK=deepcam
export DGXNNODES=1
export DGXNGPU=8
export WALLTIME=10:00:00

export LOCAL_BATCH_SIZE=8
export LOCAL_VALIDATION_BATCH_SIZE=8
export GRADIENT_ACCUMULATION_FREQUENCY=2
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

# shellcheck source=configs/systems/rivanna.sh
source "$(dirname "${BASH_SOURCE[0]:-$0}")/systems/rivanna.sh"
