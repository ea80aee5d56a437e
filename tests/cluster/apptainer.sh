#!/usr/bin/env bash
# Installs apptainer into a folder on Debian, as root: tests/cluster/apptainer.sh FOLDER, then FOLDER/bin/apptainer.
# A stable Debian has no package of it, so the one of Debian's development branch is unpacked with that branch's C library beside it.
set -euo pipefail
target=$(mkdir -p "${1:?give a folder}" && cd "$1" && pwd)
[ ! -x "$target/bin/apptainer" ] || exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "apptainer.sh: needs root and apt-get; install apptainer by hand, its tests then find it in the search path" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
for package in patchelf squashfs-tools squashfuse fuse-overlayfs uidmap; do
    dpkg -s "$package" >/dev/null 2>&1 || missing+=" $package"
done
# shellcheck disable=SC2086  # a list of names
[ -z "${missing:-}" ] || { apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing >/dev/null; }

shopt -s nullglob
lists=(/etc/apt/sources.list.d/*)
[ ! -e /etc/apt/sources.list ] || lists+=(/etc/apt/sources.list)
mirror=$(sed -n -E 's#.*(https?://[^ ]+/debian)( .*|/?)$#\1#p' "${lists[@]}" </dev/null | sed -n 1p)
[ -n "$mirror" ] || { echo "apptainer.sh: the machine's apt sources name no Debian mirror" >&2 && exit 1; }
work=$target/apt
mkdir -p "$work"/{lists/partial,cache/archives/partial,packages}
: >"$work/status"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" >"$work/sources.list"
# apt with a world of its own: the machine's lists and packages stay as they are
cat >"$work/apt.conf" <<CONF
Dir::State "$work"; Dir::State::Lists "$work/lists"; Dir::State::Status "$work/status"; Dir::Cache "$work/cache";
Dir::Etc::SourceList "$work/sources.list"; Dir::Etc::SourceParts "/dev/null"; Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null"; APT::Sandbox::User "root";
CONF
export APT_CONFIG=$work/apt.conf
apt-get update -qq -o Acquire::Check-Valid-Until=false
(cd "$work/packages" && apt-get download -qq apptainer libc6 libseccomp2 libsqlite3-0 zlib1g libgcc-s1)
for package in "$work"/packages/*.deb; do
    case $package in
        */apptainer_*) dpkg -x "$package" "$target/root" ;;
        *) dpkg -x "$package" "$target/libraries" ;;
    esac
done
loader=$(find "$target/libraries" -name 'ld-linux*.so.*' -print -quit)
for program in "$target"/root/usr/bin/apptainer "$target"/root/usr/lib/*/apptainer/bin/starter; do
    patchelf --force-rpath --set-interpreter "$loader" --set-rpath "$(dirname "$loader")" "$program"
done
# apptainer looks for etc and var beside itself, its starter one folder higher
mkdir -p "$target/root/usr/lib" "$target"/root/{,usr/,usr/lib/}var/lib/apptainer/mnt/session
ln -sfn ../etc "$target/root/usr/etc"
ln -sfn ../../etc "$target/root/usr/lib/etc"
sed -i 's/^root default capabilities.*/root default capabilities = no/' "$target/root/etc/apptainer/apptainer.conf"
rm -rf "$work"
mkdir -p "$target/bin"
ln -sfn ../root/usr/bin/apptainer "$target/bin/apptainer"
"$target/bin/apptainer" --version
