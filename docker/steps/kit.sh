#!/usr/bin/env bash
# This kit's own files for an image, laid out below a folder that becomes its last layer.  kit.sh IMAGE VARIANT SOURCE TARGET
set -euo pipefail
image=$1 variant=$2 source=$3 target=$4
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=docker/steps/site.sh
. "$here/site.sh"
venv=/opt/stormbench/venv
pip=("$venv/bin/python" -m pip)
[ -e "$venv/bin/pip" ] || pip=(python3 -m pip --python "$venv/bin/python")

work=$(mktemp -d)
cp -R "$source" "$work/source"
"${pip[@]}" wheel -q --no-deps -w "$work" "$work/source"
"${pip[@]}" install -q --no-deps --no-index --no-warn-script-location --root "$target" "$work"/stormbench-*.whl

# the workspace that the request's commands expect
mkdir -p "$target/workspace" "$target/opt/stormbench"
cp -R "$source"/{run.sub,run_and_time.sh,init_datasets.sub,configs,templates} "$target/workspace/"
cp "$source"/docker/steps/{entry,health.py} "$source/docker/images.toml" "$target/opt/stormbench/"
cp "$source/LICENSE" "$target/opt/stormbench/LICENSE"
if [ "$image" = deepcam ]; then
    mkdir -p "$target/opt/deepCam" "$target/opt/utils"
    printf '#!/usr/bin/env bash\n# The path that DeepCAM'"'"'s instructions name.\nexec /workspace/run_and_time.sh "$@"\n' >"$target/opt/deepCam/run_and_time.sh"
    cp "$source/docker/steps/convert_hdf52npy.py" "$target/opt/utils/"
    chmod 755 "$target"/opt/deepCam/run_and_time.sh "$target"/opt/utils/convert_hdf52npy.py
fi
printf '%s\n' "version ${VERSION:-unknown}" "revision ${REVISION:-unknown}" "source ${SOURCE:-unknown}" "base ${BASE_NAME:-unknown}" \
    "digest ${BASE_DIGEST:-unknown}" >"$target/opt/stormbench/origin.txt"
chmod -R a+rX,go-w "$target"
chmod 755 "$target"/workspace/{run.sub,run_and_time.sh,init_datasets.sub} "$target/opt/stormbench/entry"

# what is inside, for people and for the comparison of images: packages of the system and of Python with their versions
{
    echo "image $image-$variant"
    dpkg-query --show --showformat '${Package} ${Version}\n' | sed 's/^/system /' | LC_ALL=C sort
    PYTHONPATH=$(echo "$target$venv"/lib/python3*/site-packages) "$venv/bin/python" - <<'PYTHON'
from importlib import metadata
found = {(d.metadata["Name"] or "").lower().replace("_", "-"): d.version for d in reversed(list(metadata.distributions()))}
print("\n".join(f"python {name} {version}" for name, version in sorted(found.items())))
PYTHON
} >"$target/opt/stormbench/manifest.txt"
