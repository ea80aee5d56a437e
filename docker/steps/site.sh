# shellcheck shell=bash
# What a site needs to reach its packages: proxy, certificates, pip's settings, a mirror of Debian's or Ubuntu's packages, a folder
# of wheels. All of it comes as build secrets and as a build context, and is gone when the step ends. Steps of the recipes source this.
secrets=/run/secrets
if [ -s "$secrets/proxy" ]; then
    while IFS= read -r line; do
        case $line in
            '' | '#'*) ;;
            *=*) export "${line?}" ;;
            *) echo "build secret proxy: a line is not NAME=VALUE, such as https_proxy=http://HOST:PORT" >&2 && exit 2 ;;
        esac
    done <"$secrets/proxy"
fi
if [ -s "$secrets/ca" ]; then
    export PIP_CERT=$secrets/ca SSL_CERT_FILE=$secrets/ca REQUESTS_CA_BUNDLE=$secrets/ca CURL_CA_BUNDLE=$secrets/ca
fi
[ ! -s "$secrets/pipconf" ] || export PIP_CONFIG_FILE=$secrets/pipconf
wheelhouse=${WHEELHOUSE:-/wheelhouse}
if compgen -G "$wheelhouse/*.whl" >/dev/null; then export PIP_FIND_LINKS="$wheelhouse${PIP_FIND_LINKS:+ $PIP_FIND_LINKS}"; fi
export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_INPUT=1 DEBIAN_FRONTEND=noninteractive

# Installs packages with nothing left behind: lists, archives and settings live in a folder of this step.
apt_install() {
    local work settings
    [ $# -gt 0 ] || return 0
    work=$(mktemp -d)
    chmod 755 "$work"
    mkdir -p "$work/lists/partial" "$work/archives/partial"
    settings=(-o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work" -o "Dir::Cache::archives=$work/archives" -o APT::Sandbox::User=root
        -o Dpkg::Use-Pty=0 -o Acquire::Retries=3)
    [ ! -s "$secrets/apt" ] || settings+=(-o "Dir::Etc::SourceList=$secrets/apt" -o Dir::Etc::SourceParts=/dev/null)
    [ ! -s "$secrets/ca" ] || settings+=(-o "Acquire::https::CAInfo=$secrets/ca")
    apt-get -qq "${settings[@]}" update
    apt-get -qq "${settings[@]}" install -y --no-install-recommends "$@" >/dev/null
    rm -rf "$work" /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /var/cache/ldconfig/aux-cache
}
