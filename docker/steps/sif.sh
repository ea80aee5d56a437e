#!/usr/bin/env bash
# What apptainer's recipes do inside: nothing where the base is an image of the kit, else the same steps as the Dockerfiles.
#   sif.sh IMAGE VARIANT
set -euo pipefail
image=$1 variant=$2
steps=/opt/stormbench/steps
if [ ! -e /opt/stormbench/manifest.txt ]; then
    mkdir -p "$steps"
    cp /source/docker/steps/{site.sh,system.sh,packages.sh} "$steps/"
    cp "/source/docker/requirements/$image-$variant.txt" "$steps/requirements.txt"
    cp "/source/docker/constraints/$image-$variant.txt" "$steps/constraints.txt"
    bash "$steps/system.sh" "$image" "$variant"
    bash "$steps/packages.sh" "$image" "$variant"
    if [ "$image" = cloudmask ]; then
        cp /source/docker/horovod-wheel.sh /source/docker/steps/{horovod.sh,cuda-toolkit.sh} "$steps/"
        bash "$steps/horovod.sh" "$variant" /horovod
        cp -a /horovod/. /
        rm "$steps"/{horovod-wheel.sh,horovod.sh,cuda-toolkit.sh}
    fi
    bash /source/docker/steps/kit.sh "$image" "$variant" /source /kit
    cp -a /kit/. /
fi
rm -rf /source /kit /horovod
# the mount points of secrets and wheels; this is the last step
for path in /run/secrets/* /wheelhouse; do
    ! mountpoint -q "$path" || umount "$path"
    rm -df "$path"
done
rmdir --ignore-fail-on-non-empty /run/secrets
