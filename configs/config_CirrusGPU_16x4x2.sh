# shellcheck shell=bash
# DeepCAM on Cirrus's V100 nodes (until 2025): 16 nodes, 64 ranks, global batch 128 (64 x 2), the LAMB recipe known for that
# batch; not a NERSC-10 run, whose batch of 2048 needs accumulation here.
# shellcheck source=configs/systems/clean.sh
source "$(dirname "${BASH_SOURCE[0]:-$0}")/systems/clean.sh"

export STORMBENCH_BENCHMARK=deepcam
export DGXNNODES=16
export DGXNGPU=4
export WALLTIME=10:00:00

export LOCAL_BATCH_SIZE=2
export LOCAL_VALIDATION_BATCH_SIZE=2
export GRADIENT_ACCUMULATION_FREQUENCY=1
export BATCHNORM_GROUP_SIZE=1
export OPTIMIZER=LAMB
export START_LR=0.00155
export WEIGHT_DECAY=0.01
export LR_WARMUP_STEPS=0 LR_WARMUP_FACTOR=1
export LR_SCHEDULE_TYPE=cosine_annealing LR_T_MAX=9000 LR_ETA_MIN=0
export TARGET_IOU=0.82
export MIN_EPOCHS=0 MAX_EPOCHS=30
export PRECISION_MODE=amp
export DATA_FORMAT=numpy
export MAX_THREADS=4

# shellcheck source=configs/systems/cirrusgpu.sh
source "$(dirname "${BASH_SOURCE[0]:-$0}")/systems/cirrusgpu.sh"
