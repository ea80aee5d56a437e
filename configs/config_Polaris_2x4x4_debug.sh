# shellcheck shell=bash
# DeepCAM on Polaris's debug queue: 2 nodes, 8 ranks, global batch 128 (8 x 4, accumulation 4), unverified. Random samples in
# place of data: it shows that a job runs, and how fast, and says nothing of accuracy.
# shellcheck source=configs/systems/clean.sh
source "$(dirname "${BASH_SOURCE[0]:-$0}")/systems/clean.sh"

export STORMBENCH_BENCHMARK=deepcam
export DGXNNODES=2
export DGXNGPU=4
export WALLTIME=01:00:00

export LOCAL_BATCH_SIZE=4
export LOCAL_VALIDATION_BATCH_SIZE=4
export GRADIENT_ACCUMULATION_FREQUENCY=4
export BATCHNORM_GROUP_SIZE=1
export OPTIMIZER=LAMB
export START_LR=0.00155
export WEIGHT_DECAY=0.01
export LR_WARMUP_STEPS=0 LR_WARMUP_FACTOR=1
export LR_SCHEDULE_TYPE=cosine_annealing LR_T_MAX=9000 LR_ETA_MIN=0
export TARGET_IOU=0.82
export MIN_EPOCHS=0 MAX_EPOCHS=4
export PRECISION_MODE=amp
export DATA_FORMAT=dummy
export STORMBENCH_DUMMY_TRAIN=1024 STORMBENCH_DUMMY_VALIDATION=64
export MAX_THREADS=4

# shellcheck source=configs/systems/polaris.sh
source "$(dirname "${BASH_SOURCE[0]:-$0}")/systems/polaris.sh"
