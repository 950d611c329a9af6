#!/usr/bin/env bash
# The README's two commands where nothing is prepared: a Debian that debootstrap has just made, with make, git and
# ca-certificates and nothing else, gets a clone of the commit that is checked out here, and runs "make demo" and
# "make test" in it. The file system is a folder, with mounts, processes and a host name of its own; it is removed at the
# end, however it ends. The machine's network is used to reach the mirrors.
#
#   scripts/bare_machine_test.sh [--suite SUITE] [--user] [COMMAND [ARGUMENT...]]
#
#   --suite SUITE   a Debian: bookworm (default), trixie, ...
#   --user          run the command as a user without any right, after root has installed what such a user is told to
#   COMMAND         instead of the two, e.g.  sh -c 'for run in 1 2 3; do make demo || exit; done'
#
# Environment: CACHE (a folder, outside the checkout, in which the bare system is kept as an archive for the next time;
# remove it to have a new one), MIRROR (debootstrap's default), TMPDIR (/var/tmp; about 4 GB are needed there). How this
# machine reaches mirrors and registries is passed on: names, proxies, certificates, the settings of apt and pip.
#
# Needs root; debootstrap is installed where it is missing. Exit status: that of the command, 1 if one of the two failed,
# 2 if nothing was run. Takes about ten minutes, half of it for the tests.
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf 'bare_machine_test: %s\n' "$*"; }
die() { printf 'bare_machine_test: %s\n' "$*" >&2; exit 2; }

# shellcheck source=scripts/bare_root.sh
source "$top/scripts/bare_root.sh"

# ---- inside ----

# live USER [COMMAND...]: what happens in there; a clone, then each command.
live() {
    local user=$1 as=() failed=0
    shift
    git -c advice.detachedHead=false clone --quiet file:///cryprq.git /srv/cryprq
    cd /srv/cryprq
    if [[ $user == 1 ]]; then
        useradd --create-home somebody
        scripts/bootstrap.sh --system
        VENV=/tmp/tests scripts/bootstrap.sh --tests
        chown -R somebody: .
        as=(setpriv --reuid somebody --regid somebody --clear-groups -- env HOME=/home/somebody)
    fi
    if [[ $# -gt 0 ]]; then
        run_and_tell "${as[@]}" "$@"
        return
    fi
    run_and_tell "${as[@]}" make demo || failed=1
    run_and_tell "${as[@]}" make test || failed=1
    return "$failed"
}

run_and_tell() {
    local start=$SECONDS status=0
    "$@" || status=$?
    say "$(hostname): $*: exit status $status after $((SECONDS - start)) s"
    return "$status"
}

# The second half of this script, in namespaces that the first half makes: inside ROOT SUITE USER [COMMAND...]
inside() {
    hostname "$2"
    enter "$1"
    live "${@:3}"
}

if [[ ${1:-} == inside ]]; then
    shift
    inside "$@"
    exit
fi

suite=bookworm user=0
while [[ ${1:-} == --* ]]; do
    case $1 in
        --suite)
            [[ ${2:-} =~ ^[a-z]+$ ]] || die "--suite wants the name of a Debian, as bookworm or trixie"
            suite=$2
            shift
            ;;
        --user) user=1 ;;
        *) die "usage: $0 [--suite SUITE] [--user] [COMMAND [ARGUMENT...]]" ;;
    esac
    shift
done
[[ -z ${CACHE:-} || ! $(realpath -m "$CACHE")/ == "$top"/* ]] || die "CACHE=$CACHE is inside the checkout"
command -v git >/dev/null || die "this machine lacks git"
[[ $EUID -eq 0 ]] || die "not root: debootstrap has to make device nodes and to chroot"
git=(git -c 'safe.directory=*' -C "$top")
"${git[@]}" rev-parse --verify --quiet HEAD >/dev/null || die "$top is no git checkout"
[[ -c /dev/net/tun ]] || die "no /dev/net/tun: modprobe tun"
"$top/scripts/bootstrap.sh" --images || exit 2
[[ -z $("${git[@]}" status --porcelain) ]] || say "note: what is not committed is not tested"

work=$(mktemp -d "${TMPDIR:-/var/tmp}/cryprq-bare.XXXXXX")
root=$work/root
runner=
# shellcheck disable=SC2329  # the trap calls it
clean_up() {
    # It holds back other signals; all that runs in there ends with it, and the mounts are gone with the last of it.
    [[ -z $runner ]] || { kill -KILL "$runner" && wait "$runner"; } 2>/dev/null || true
    rm -rf --one-file-system -- "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# How this machine reaches mirrors and registries, and the commit.
furnish() {
    local file
    for file in /etc/resolv.conf /etc/hosts /etc/pip.conf; do
        [[ ! -e $file ]] || cp -L "$file" "$root$file"
    done
    for file in ~/.config/pip ~/.pip; do
        [[ ! -d $file ]] || { mkdir -p "$root/root/${file#"$HOME/"}" && cp -L "$file"/* "$root/root/${file#"$HOME/"}"; }
    done
    apt-config dump Acquire >"$root/etc/apt/apt.conf.d/99as-outside"
    for file in /usr/local/share/ca-certificates/*.crt; do
        [[ ! -e $file ]] || install -D -m 0644 "$file" "$root$file"
    done
    attempt chroot "$root" update-ca-certificates
    # This checkout may be somebody else's, and git clone does not pass on what "git -c" says of that.
    printf '[safe]\n    directory = *\n' >"$work/gitconfig"
    GIT_CONFIG_GLOBAL=$work/gitconfig attempt git clone --quiet --bare --depth 1 "file://$top" "$root/cryprq.git"
}

make_root "$root" "$suite" "$(dpkg --print-architecture)" make,git,ca-certificates bare
furnish
# Of this shell's environment only what leads to the registries.
settings=(HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 "TERM=${TERM:-dumb}")
while IFS= read -r name; do
    settings+=("$name=${!name}")
done < <(compgen -e | grep -Ei '^(pip_.*|.*_proxy|ssl_cert_file|requests_ca_bundle)$' | grep -vx PIP_FIND_LINKS)
# In the background, so that a signal is heeded at once; bash lets what is there ignore two of them.
again=("$top/scripts/bare_machine_test.sh" inside "$root" "$suite" "$user" "$@")
unshare --mount --propagation private --uts --ipc --pid --fork --kill-child \
    env -i --default-signal=INT,QUIT "${settings[@]}" "${again[@]}" &
runner=$!
status=0
wait "$runner" || status=$?
runner=
exit "$status"
