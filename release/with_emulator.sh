#!/usr/bin/env bash
# Runs a command while this machine's kernel runs programs of another architecture, too, also inside containers: what a
# build step of a foreign image needs. Where the kernel does not do so yet, Debian's static qemu is unpacked into build/
# and registered in binfmt_misc for as long as the command runs; nothing is installed. Then all is as it was before.
#
#   release/with_emulator.sh arm64|amd64 COMMAND...
#
# Needs root, and where qemu-user-static is not installed apt. The exit status is the command's, or 2.
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
binfmt=/proc/sys/fs/binfmt_misc

die() { printf 'with_emulator: %s\n' "$*" >&2; exit 2; }

[[ $# -ge 2 ]] || die "usage: $0 arm64|amd64 COMMAND..."
case $1 in
    arm64) machine=aarch64 ;;
    amd64) machine=x86_64 ;;
    *) die "unknown architecture $1" ;;
esac
shift
entry=$binfmt/qemu-$machine

# F: the kernel keeps qemu open, so that it is found where another root is.
if [[ $machine == "$(uname -m)" ]] || grep -qs '^flags:.*F' "$entry"; then
    exec "$@"
fi
[[ $EUID -eq 0 ]] || die "not root: the kernel lets only root register an interpreter"
[[ ! -e $entry ]] || die "$entry is there, but without the flag F: qemu would not be found in a container"

# unpack FOLDER PACKAGE...
unpack() {
    local folder=$1 package
    shift
    (cd "$folder" && apt-get download -qq -o APT::Sandbox::User=root "$@") >&2 ||
        die "no $*: apt-get could not download it"
    for package in "$folder"/*.deb; do
        dpkg-deb -x "$package" "$folder"
        rm -f "$package"
    done
}

# Where Debian's qemu-user-static is: of this machine, or unpacked.
qemu_root() {
    local root=$top/build/qemu-user-static
    if [[ -e /usr/lib/binfmt.d/qemu-$machine.conf ]]; then
        return
    fi
    if [[ ! -e $root/complete ]]; then
        rm -rf "$root"
        mkdir -p "$root"
        unpack "$root" qemu-user-static
        # From Debian 13 on qemu-user is static itself, and that is but another name of it.
        [[ -e $root/usr/lib/binfmt.d/qemu-$machine.conf ]] || unpack "$root" qemu-user qemu-user-binfmt
        : >"$root/complete"
    fi
    printf '%s' "$root"
}

mounted=0 registered=0
undo() {
    if [[ $registered -eq 1 ]]; then
        echo -1 >"$entry"
    fi
    if [[ $mounted -eq 1 ]]; then
        umount "$binfmt"
    fi
}
trap undo EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

root=$(qemu_root)
if [[ ! -e $binfmt/register ]]; then
    mount -t binfmt_misc binfmt_misc "$binfmt" || die "the kernel has no binfmt_misc"
    mounted=1
fi
# Debian's own line of the magic and mask of such a program; the path is made that of the unpacked qemu.
sed "s|:/usr/|:$root/usr/|" "${root:-}/usr/lib/binfmt.d/qemu-$machine.conf" >"$binfmt/register" ||
    die "the kernel did not take qemu-$machine"
registered=1
"$@"
