#!/usr/bin/env bash
# The demo, step by step as a user would type it: generated data, then the job-side entry that clusters use.
# each config is sourced in a shell of its own, on purpose
# shellcheck disable=SC2030,SC2031
set -euo pipefail
folder=${1:-demo}
# threads that spin while they wait make two programs on the same cores many times slower; a laptop shares its cores
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
cd "$(dirname "$0")/.."

echo "1. DeepCAM's data: 192 training and 16 validation samples of 96 x 144 pixels, 16 channels, in the layout of the published set."
stormbench deepcam synth "$folder/data" --train 192 --validation 16 --height 96 --width 144 --seed 333

echo "2. DeepCAM: training at a quarter of the network's width until the intersection over union reaches 0.82."
(
    # shellcheck source=configs/config_local_1x1x2_demo.sh
    source configs/config_local_1x1x2_demo.sh
    export DATADIR=$folder/data LOGDIR=$folder/results
    ./run_and_time.sh
)

echo
echo "3. CloudMask's data: 16 Sentinel-3 products of 256 x 320 pixels as archives hold them, unpacked and converted."
stormbench cloudmask synth "$folder/slstr" --products 16 --height 256 --width 320 --zipped
stormbench cloudmask extract "$folder/slstr" "$folder/products"
stormbench cloudmask convert-hdf "$folder/products" "$folder/hdf"

echo "4. CloudMask: training at a quarter of the network's width until the accuracy on the test split reaches 85%."
(
    # shellcheck source=configs/config_local_1x1x1_cloudmask_demo.sh
    source configs/config_local_1x1x1_cloudmask_demo.sh
    export DATADIR=$folder/hdf LOGDIR=$folder/results
    ./run_and_time.sh
)
models=("$folder"/results/cloudmask-*/checkpoints/cloudmask_1_best.keras)

echo
echo "5. CloudMask: masks of all products, compared with the Bayesian masks, with buoys, and by eye."
stormbench cloudmask inference "${models[-1]}" "$folder/hdf" "$folder/masks"
stormbench cloudmask sst-comp "$folder/slstr/sst_matchups.h5" "$folder/masks"
stormbench cloudmask picture "$folder/hdf" "$folder/masks" "$folder/clouds.png"

cat <<TEXT

Look at $folder/clouds.png. Try next:
  stormbench deepcam train --help                       every option, with its bounds
  stormbench cloudmask train --help
  python -m mlperf_logging.compliance_checker --usage hpc --ruleset 3.0.0 $folder/results/deepcam-*/result_1.txt
  torchrun --nproc_per_node 2 -m stormbench deepcam train --data_dir_prefix $folder/data --width 0.25 --max_epochs 1
(the programs are in .venv/bin)
TEXT
