#!/bin/sh
# fresh.sh - does a fresh machine need anything that we do not say?
#
# Makes a minimal Debian 12 in a temporary folder, clones HEAD into it and runs
# there what the README says: `make run` (once) and `make test`. Only what the
# machine needs to reach its package servers is carried over: extra CAs, name
# resolution, proxies, the settings of apt, pip, npm and go.
#
#   MIRROR=URL    the Debian mirror   [the first one in apt's own sources]
#   TMPDIR=DIR    where, 4 GB free    [/var/tmp]
#   KEEP_LOG=DIR  a copy of the logs goes there
set -eu
cd "$(dirname "$0")/../.."
top=$PWD
release=bookworm

die() {
    echo "test-fresh: $*" >&2
    exit 1
}

if [ "$(id -u)" != 0 ]; then
    die "needs root, for chroot and mount: sudo make test-fresh"
fi
if ! git rev-parse -q --verify HEAD > /dev/null 2>&1; then
    die "needs a git checkout with a commit"
fi
if [ -n "$(git status --porcelain)" ]; then
    echo "test-fresh: note: what is not committed is not tested"
fi

mirror=${MIRROR:-$(apt-get indextargets \
    --format "\$(RELEASE) \$(REPO_URI)" 'Identifier: Packages' \
    | awk -v release=$release '$1 == release { print $2; exit }')}
if [ -z "$mirror" ]; then
    die "no mirror of $release in apt's sources: pass MIRROR=URL"
fi

root=$(mktemp -d "${TMPDIR:-/var/tmp}/kars-fresh.XXXXXX")
root=$(realpath "$root")
chmod 755 "$root" # the suite plays other users in there
home=/fresh # HOME in there

# Programs started in there keep it busy: those whose root it is, and no other.
stop_all() {
    for proc in /proc/[0-9]*; do
        if [ "$(readlink "$proc/root" 2> /dev/null)" = "$root" ]; then
            kill -KILL "${proc#/proc/}" 2> /dev/null || true
        fi
    done
}

mounts() {
    awk -v root="$root/" 'index($2, root) == 1 { print $2 }' /proc/mounts | sort -r
}

# Removes nothing while anything is mounted there: that would be the machine's.
clean_up() {
    rc=$?
    trap '' INT TERM
    if [ $rc -ne 0 ]; then
        echo "test-fresh: $what: FAILED after $(($(date +%s) - start)) s" >&2
    fi
    if [ -n "${KEEP_LOG:-}" ] && [ -d "$root/src/objs" ]; then
        mkdir -p "$KEEP_LOG"
        find "$root/src/objs" -name '*.log' -exec cp {} "$KEEP_LOG/" \;
    fi
    stop_all
    for mounted in $(mounts); do
        umount "$mounted" 2> /dev/null || umount -l "$mounted" || :
    done
    if [ -n "$(mounts)" ]; then
        echo "test-fresh: still mounted, not removed: $root" >&2
        return
    fi
    rm -rf --one-file-system "$root"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# timed WHAT COMMAND ...: a failure ends the script, and clean_up says where.
what=start
start=$(date +%s)
timed() {
    what=$1
    shift
    echo "-- $what"
    start=$(date +%s)
    "$@"
    echo "-- $what: $(($(date +%s) - start)) s"
}

# carry PATH ...: those that exist, to the same place.
carry() {
    for path in "$@"; do
        if [ -e "$path" ]; then
            mkdir -p "$root$(dirname "$path")"
            cp -RL "$path" "$root$(dirname "$path")/"
        fi
    done
}

bootstrap() {
    log=$root.log
    if ! debootstrap --variant=minbase --include=ca-certificates,git,make \
        "$release" "$root" "$mirror" > "$log" 2>&1; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
}

settings() {
    mkdir -p "$root$home"
    carry /etc/resolv.conf /etc/hosts /etc/pip.conf /etc/npmrc \
        /usr/local/share/ca-certificates
    chroot "$root" update-ca-certificates > /dev/null 2>&1
    # CAs that were put into the bundle by other ways than the one above.
    carry /etc/ssl/certs/ca-certificates.crt

    # Of apt's settings those that are about how to reach a server.
    for file in /etc/apt/apt.conf /etc/apt/apt.conf.d/*; do
        if [ -f "$file" ] && grep -qiE \
            'Acquire::(https?|ftp|Check-|Max-|Retries|Force)' "$file"; then
            carry "$file"
        fi
    done

    for file in .pip/pip.conf .config/pip/pip.conf .npmrc .config/go/env; do
        if [ -f "$HOME/$file" ]; then
            mkdir -p "$root$home/$(dirname "$file")"
            cp -L "$HOME/$file" "$root$home/$file"
        fi
    done

    # Local folders that pip is told to look into.
    for dir in ${PIP_FIND_LINKS:-}; do
        case $dir in
        /*) carry "$dir" ;;
        esac
    done
}

mount_system() {
    mount --bind /proc "$root/proc"
    mount --bind /sys "$root/sys"
    mount --bind /dev "$root/dev"
    for dir in /dev/pts /dev/shm; do
        if mountpoint -q "$dir"; then
            mount --bind "$dir" "$root$dir"
        fi
    done
}

clone() {
    git -c safe.directory='*' clone -q --no-local "$top" "$root/src"
    git -C "$root/src" log -1 --format='   %h %s'
}

# inside COMMAND ...: with an environment of its own, but for how to reach
# package servers.
inside() {
    env | grep -iE '^([a-z]*_proxy|PIP_[A-Z_]*|SSL_CERT_[A-Z]*|GIT_SSL_CAINFO|CURL_CA_BUNDLE|REQUESTS_CA_BUNDLE|NODE_EXTRA_CA_CERTS|npm_config_[a-z_]*|GOPROXY|GONOSUMDB|GONOSUMCHECK|GOSUMDB|GOFLAGS|GOINSECURE|GONOPROXY|GOPRIVATE|CI)=' \
        > "$root/tmp/environment" || true
    # shellcheck disable=SC2016 # expanded in there
    chroot "$root" env -i HOME="$home" LANG=C.UTF-8 TERM=dumb \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        sh -c '
            while IFS= read -r line; do export "$line"; done < /tmp/environment
            cd /src && exec "$@"' sh "$@" < /dev/null
}

echo "-- Debian $release from $mirror in $root"
timed "debootstrap" bootstrap
timed "mount" mount_system
timed "settings" settings
timed "clone" clone
timed "make run ONCE=1" inside make run ONCE=1
timed "make test" inside make test
