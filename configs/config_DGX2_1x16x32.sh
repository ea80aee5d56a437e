# shellcheck shell=bash
# CloudMask on one DGX-2 under docker: 16 ranks, global batch 512 (16 x 32), as in the published end-to-end run 24413, which
# was on such a machine under Slurm.
# shellcheck source=configs/systems/clean.sh
source "$(dirname "${BASH_SOURCE[0]:-$0}")/systems/clean.sh"

export STORMBENCH_BENCHMARK=cloudmask
export DGXNNODES=1
export DGXNGPU=16

export STORMBENCH_CLOUDMASK_BATCH_SIZE=32
export STORMBENCH_CLOUDMASK_EPOCHS=30
export STORMBENCH_CLOUDMASK_LEARNING_RATE=0.001
export STORMBENCH_CLOUDMASK_SCALE_LR=0
export STORMBENCH_CLOUDMASK_LOSS=weighted STORMBENCH_CLOUDMASK_WBCE=0.5
export STORMBENCH_CLOUDMASK_CLIP_OFFSET=15
export STORMBENCH_CLOUDMASK_TRAIN_SPLIT=0.8
export STORMBENCH_CLOUDMASK_CACHE=memory
export STORMBENCH_CLOUDMASK_STRATEGY=horovod

# shellcheck source=configs/systems/dgx2.sh
source "$(dirname "${BASH_SOURCE[0]:-$0}")/systems/dgx2.sh"
