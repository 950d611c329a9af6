# shellcheck shell=bash disable=SC2154,SC2164
# For scripts that need a Debian in which nothing is prepared: debootstrap makes it in a folder, and a process gets that
# folder as all that there is. To be sourced by one that has a function die, and a folder $work.

# attempt COMMAND...: quiet, unless it fails.
attempt() { "$@" >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; die "$1 failed"; }; }

# make_root ROOT SUITE ARCHITECTURE PACKAGES NAME: a bare system with these packages (comma separated), from the archive
# $CACHE/NAME-SUITE-ARCHITECTURE.tar if it is there, which else is made. MIRROR: see debootstrap.
make_root() {
    local root=$1 suite=$2 architecture=$3 kept=${CACHE:-} mirror
    kept=${kept:+$kept/$5-$suite-$architecture.tar}
    mkdir "$root"
    if [[ -n $kept && -e $kept ]]; then
        attempt tar --numeric-owner -C "$root" -xpf "$kept"
        return
    fi
    say "making a bare $suite, $architecture"
    attempt debootstrap --force-check-gpg --arch="$architecture" --variant=minbase --include="$4" "$suite" "$root" \
        ${MIRROR:+"$MIRROR"}
    mirror=$(awk '$1 == "deb" { print $2; exit }' "$root/etc/apt/sources.list")
    printf 'deb %s %s main\n' "$mirror" "$suite" "$mirror" "$suite-updates" "${mirror%/}-security" "$suite-security" \
        >"$root/etc/apt/sources.list"
    rm -rf "$root"/var/cache/apt/archives/*.deb
    if [[ -n $kept ]]; then
        mkdir -p "$CACHE"
        attempt tar --numeric-owner -C "$root" -cf "$work/new.tar" .
        mv "$work/new.tar" "$kept"
    fi
}

# Makes $1 the root of this process, which has namespaces of mounts and processes of its own. Unlike after a chroot, / is
# a mount point then, and users may have user namespaces.
enter() {
    local device major minor
    cd "$1"
    mount --bind . .
    cd "$1"
    mount -t proc proc proc
    mount -t sysfs sysfs sys
    mount -t tmpfs -o mode=755 tmpfs run
    mount -t tmpfs -o mode=755 tmpfs dev
    mkdir dev/net dev/pts dev/shm
    for device in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0" "net/tun 10 200"; do
        read -r device major minor <<<"$device"
        mknod --mode 666 "dev/$device" c "$major" "$minor"
    done
    mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts dev/pts
    mount -t tmpfs -o mode=1777 tmpfs dev/shm
    ln -s pts/ptmx dev/ptmx
    ln -s /proc/self/fd dev/fd
    ln -s /proc/self/fd/0 dev/stdin
    ln -s /proc/self/fd/1 dev/stdout
    ln -s /proc/self/fd/2 dev/stderr
    pivot_root . .
    umount -l .
    cd /
}
