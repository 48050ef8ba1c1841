#!/bin/sh
# Installs what the comparison measures trio_raft against, and builds the programs that drive it:
#
#   hashicorp/raft with boltdb and etcd from Debian's packages (apt-get, as root or through sudo), PySyncObj from PyPI
#   into a virtual environment of its own.
#
# Everything but Debian's packages goes to ${XDG_CACHE_HOME:-~/.cache}/trio_raft-benchmarks; remove that directory to
# be rid of it. What fails is said, the rest is installed anyway, and the exit status tells.
set -u
cd "$(dirname "$0")" || exit 1

PEERS="${XDG_CACHE_HOME:-$HOME/.cache}/trio_raft-benchmarks"
PACKAGES='golang-go golang-github-hashicorp-raft-dev golang-github-hashicorp-raft-boltdb-dev etcd-server
    golang-etcd-server-dev python3-venv'
PYSYNCOBJ=0.3.17

status=0
failed() {
    echo "install.sh: $1" >&2
    status=1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

go_program() { # name, directory of its source
    GO111MODULE=off GOPATH=/usr/share/gocode GOFLAGS= go build -o "$PEERS/$1" "./$2" || failed "$1 was not built"
}

package_version() {
    dpkg-query --show --showformat '${Version}' "$1" 2>/dev/null || echo 'not installed'
}

mkdir -p "$PEERS" || exit 1
as_root apt-get update || failed 'the lists of packages were not brought up to date'
# shellcheck disable=SC2086  # a list of packages
as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $PACKAGES ||
    failed 'packages are missing'
go_program hashicorp hashicorp
go_program etcd-client etcd
if python3 -m venv --clear "$PEERS/pysyncobj" &&
    "$PEERS/pysyncobj/bin/python" -m pip install --quiet --disable-pip-version-check "pysyncobj==$PYSYNCOBJ"; then
    pysyncobj="$PYSYNCOBJ"
else
    rm -rf "$PEERS/pysyncobj"
    failed 'PySyncObj was not installed'
fi
{
    echo "hashicorp $(package_version golang-github-hashicorp-raft-dev)"
    echo "etcd $(package_version etcd-server)"
    echo "pysyncobj ${pysyncobj:-not installed}"
} > "$PEERS/versions"
echo "Installed in $PEERS:"
cat "$PEERS/versions"
exit "$status"
