# shellcheck shell=bash
# DeepCAM on Perlmutter, the NERSC-10 baseline: 256 nodes, 1024 ranks, global batch 2048 (1024 x 2), NERSC-10's fixed
# hyperparameters; the figure is the time for 16 epochs, and the target is 0.80.
# shellcheck source=configs/systems/clean.sh
source "$(dirname "${BASH_SOURCE[0]:-$0}")/systems/clean.sh"

export STORMBENCH_BENCHMARK=deepcam
export DGXNNODES=256
export DGXNGPU=4
export WALLTIME=01:00:00
export STORMBENCH_NERSC10=baseline

export LOCAL_BATCH_SIZE=2
export LOCAL_VALIDATION_BATCH_SIZE=4
export GRADIENT_ACCUMULATION_FREQUENCY=1
export BATCHNORM_GROUP_SIZE=1
export OPTIMIZER=LAMB
export START_LR=0.0055
export WEIGHT_DECAY=0.01
export LR_WARMUP_STEPS=400 LR_WARMUP_FACTOR=1
export LR_SCHEDULE_TYPE=multistep LR_MILESTONES=800 LR_DECAY_RATE=0.1
export TARGET_IOU=0.80
export MIN_EPOCHS=16 MAX_EPOCHS=50
export PRECISION_MODE=amp
export DATA_FORMAT=numpy
export MAX_THREADS=4

# shellcheck source=configs/systems/perlmutter.sh
source "$(dirname "${BASH_SOURCE[0]:-$0}")/systems/perlmutter.sh"
