#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
#
# fetch-qemu10.sh DIR: QEMU 10 for the tests, from the backports of Debian 12, unpacked in DIR: DIR/bin has the programs,
# DIR/version tells which QEMU it is. When DIR is there it is whole, and nothing is done; it appears at the very end.
#
# It has sources, lists and a cache of its own, and takes the mirror from what apt is configured to use. Nothing is
# installed, and the host's lists are left as they are. On a failure, the last line on stderr says what is missing; all
# output of apt is in DIR.log.
# shellcheck disable=SC2015,SC2016 # dollars that the programs expand; "check && check || fail"
set -euo pipefail

dir=$(realpath -m "$1")
readonly dir new=$dir.new log=$dir.log
readonly release=bookworm
readonly packages="qemu-system-x86 qemu-system-common qemu-system-data qemu-utils qemu-block-extra"
readonly firmware="seabios ipxe-qemu" # of the release itself: newer ones are not needed
readonly patience=(-o Acquire::Retries=2 -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30)
readonly programs="qemu-img qemu-io qemu-nbd qemu-storage-daemon qemu-system-x86_64"

fail()
{
    rm -rf "$new"
    printf 'QEMU 10: %s\n' "$*" >&2
    exit 1
}

# The URI of the release that the host's apt uses; nothing if it does not. Only sources whose lists are there are told, so
# a host whose lists were removed has them read into a folder of our own.
mirror()
{
    local uri
    local -a lists=()

    uri=$(known_mirror)
    if [ -z "$uri" ]; then
        mkdir -p "$new/apt/host/partial"
        lists=(-o Dir::State::lists="$new/apt/host" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=)
        timeout 600 apt-get -q "${lists[@]}" "${patience[@]}" update >>"$log" 2>&1 || true
        uri=$(known_mirror "${lists[@]}")
    fi
    printf '%s' "$uri"
}

# known_mirror OPTION...
known_mirror()
{
    apt-get "$@" indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Identifier: Packages' 2>>"$log" |
        awk -v release="$release" '$1 == release && $2 == "main" { print $3; exit }'
}

# private_apt SUITE ARGUMENT...: apt-get that knows this suite and nothing else
private_apt()
{
    local suite=$1
    shift

    timeout 600 apt-get -q -o Dir::Etc::sourcelist="$new/apt/$suite.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::lists="$new/apt/$suite" -o Dir::Cache="$new/apt/cache-$suite" \
        -o APT::Update::Error-Mode=any "${patience[@]}" "$@" >>"$log" 2>&1
}

# download SUITE URI PACKAGE...
download()
{
    local suite=$1 uri=$2
    shift 2

    mkdir -p "$new/apt/$suite/partial" "$new/apt/cache-$suite/archives/partial"
    printf 'deb %s%s %s main\n' "$signed_by" "$uri" "$suite" >"$new/apt/$suite.list"
    private_apt "$suite" update || fail "apt cannot read $suite (see $log)"
    (cd "$new/apt" && private_apt "$suite" download "$@") || fail "$suite lacks one of: $* (see $log)"
}

# wrapper PROGRAM: runs the program with its own modules and firmware, wherever the folder is
wrapper()
{
    local program=$1 data=

    [ -x "$new/root/usr/bin/$program" ] || fail "$program is not in the packages"
    case "$program" in
    qemu-system-*) data='-L "$root/share/qemu" -L "$root/share/seabios" -L "$root/lib/ipxe/qemu" ' ;;
    esac
    cat >"$new/bin/$program" <<END
#!/bin/sh
root=\${0%/*}/../root/usr
QEMU_MODULE_DIR=\$root/$modules exec "\$root/bin/$program" $data"\$@"
END
    chmod 755 "$new/bin/$program"
}

[ ! -f "$dir/version" ] || exit 0
rm -rf "$dir" "$new"
mkdir -p "$(dirname "$dir")"
: >"$log"
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || fail "there is no apt to get it with"
umask 022 # the service account runs these programs, too
mkdir -p "$new/bin" "$new/root" "$new/apt"
uri=$(mirror)
[ -n "$uri" ] || fail "apt reaches no source of $release, whose backports have it (see $log)"

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
signed_by=
[ ! -r "$keyring" ] || signed_by="[signed-by=$keyring] "

# shellcheck disable=SC2086 # lists of words
download "$release-backports" "$uri" $packages
# shellcheck disable=SC2086
download "$release" "$uri" $firmware
for package in "$new"/apt/*.deb; do
    dpkg-deb -x "$package" "$new/root" >>"$log" 2>&1 || fail "$package cannot be unpacked (see $log)"
done
rm -rf "$new/apt" "$new/root/usr/share/doc" "$new/root/usr/share/man"
modules=$(cd "$new/root/usr" && echo lib/*-linux-*/qemu)
for program in $programs; do
    wrapper "$program"
    "$new/bin/$program" --version >>"$log" 2>&1 || fail "$program does not run here (see $log)"
done
version=$("$new/bin/qemu-img" --version | awk 'NR == 1 { print $3 }')
case "$version" in
10.*) printf '%s\n' "$version" >"$new/version" ;;
*) fail "the backports have version '$version'" ;;
esac
mv "$new" "$dir"
