#!/usr/bin/env bash
# Tests Debian packages as their users meet them, each in a Debian of its own: a lower version is installed and
# configured, upgraded with what was configured kept, run, removed, installed again and purged. Inside, an identity is
# made, a configuration checked, records sealed and opened, the unit judged by systemd-analyze; and on this machine's
# architecture two nodes have a tunnel between two network namespaces. No systemd runs in there: see --boot.
#
#   release/test_deb.sh [--suite SUITE] [--boot] DEB...
#
#   --suite SUITE   that Debian only (default: bookworm and trixie)
#   --boot          also under a systemd that systemd-nspawn starts: the service is started, upgraded, removed
#
# Environment: CACHE (a folder for the bare systems, kept for the next time), MIRROR (debootstrap's default), TMPDIR
# (/var/tmp; about 1 GB is needed). Needs root; debootstrap is installed where it is missing. A package for another
# architecture is tested under qemu (with_emulator.sh), which takes minutes. Exit status: 0 passed, 1 failed, 2 not run.
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf 'test_deb: %s\n' "$*"; }
die() { printf 'test_deb: %s\n' "$*" >&2; exit "${status:-2}"; }

# shellcheck source=scripts/bare_root.sh
source "$top/scripts/bare_root.sh"

# ---- inside ----

failed() { status=1 die "$where: $*"; }

# holds WHAT COMMAND...
holds() {
    local what=$1
    shift
    "$@" || failed "not so: $what"
    say "$where: $what"
}

apt() { DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o Dpkg::Options::=--force-confold "$@" >/tmp/apt.log 2>&1 || { cat /tmp/apt.log >&2; failed "apt-get $*"; }; }
owner() { [[ $(stat -c '%U %a' "$1") == "$2" ]]; }
conffile_is_kept() { grep -q '^mtu = 1300$' /etc/cryprq/node.toml && grep -q '^#listen' /etc/cryprq/node.toml.dpkg-dist; }
installed() { [[ $(dpkg-query -W -f '${Version}' cryprq) == "$1" ]]; }

# Nothing of this machine's Python but its standard library counts, neither packages nor the environment.
isolated() {
    local trap=/usr/lib/python3/dist-packages/cryptography
    mkdir -p "$trap" /tmp/trap
    echo 'raise SystemExit("not isolated")' | tee "$trap/__init__.py" >/tmp/trap/socket.py
    PYTHONPATH=/tmp/trap PYTHONHOME=/tmp/trap cryprq-node --version | grep -q '^cryprq-node '
    rm -r "$trap" /tmp/trap
}

# What root has put into the state directory is the node's when the unit has run its line.
repaired() {
    owner /var/lib/cryprq/identity "root 600" || return
    sh -c "$(sed -n 's/^ExecStartPre=+-//p' /usr/lib/systemd/system/cryprq-node.service)"
    owner /var/lib/cryprq/identity "cryprq 600"
}

checks() {
    cryprq-node --version >/tmp/version
    cryprq-node --config /etc/cryprq/node.toml --listen /ip4/127.0.0.1/udp/9999/quic-v1 --check >/dev/null
}

self_test() {
    cryprq bench --json | python3 -c '
import json, sys
sys.exit(not all(each["gigabits"] > 0 for each in json.load(sys.stdin)["tunnel"]))'
}

unit_is_good() { [[ -z $(systemd-analyze verify --man=no /usr/lib/systemd/system/cryprq-node.service 2>&1 | tee /tmp/unit.log) ]] || { cat /tmp/unit.log; return 1; }; }

pages_are_there() {
    local file
    for file in man/man1/cryprq.1.gz man/man8/cryprq-node.8.gz bash-completion/completions/cryprq{,-node} \
        zsh/vendor-completions/_cryprq{,-node} fish/vendor_completions.d/cryprq{,-node}.fish; do
        # A minimal system may be set up without documentation; these are not left out by debootstrap.
        [[ -s /usr/share/$file ]] || { echo "no $file"; return 1; }
    done
}

# as_service NAMESPACE COMMAND...: with the user and the one capability that the unit gives.
as_service() {
    ip netns exec "$1" setpriv --reuid cryprq --regid cryprq --clear-groups --bounding-set -all,+net_admin \
        --inh-caps -all,+net_admin --ambient-caps -all,+net_admin --no-new-privs -- "${@:2}"
}

# A gateway with the package's configuration file and identity, and a host that dials it.
tunnel() {
    local gateway host end
    install -d -o cryprq /run/cryprq /tmp/host
    gateway=$(cryprq id /var/lib/cryprq/identity)
    host=$(cryprq keygen --out /tmp/host/identity)
    chown cryprq /tmp/host/identity
    ip netns add gateway
    ip netns add host
    ip link add eth0 netns gateway type veth peer name eth0 netns host
    ip -n gateway address add 192.0.2.1/24 dev eth0
    ip -n host address add 192.0.2.2/24 dev eth0
    ip -n gateway link set eth0 up
    ip -n host link set eth0 up
    printf '%s\n' 'listen = "/ip4/0.0.0.0/udp/9999/quic-v1"' 'tun-address = ["10.66.0.1/24"]' '[allow-peer]' \
        "$host = []" >>/etc/cryprq/node.toml
    as_service gateway cryprq-node --config /etc/cryprq/node.toml >/tmp/gateway.log 2>&1 &
    as_service host cryprq-node --identity /tmp/host/identity --tun-name host0 --control-socket /tmp/host/socket \
        --peer "/ip4/192.0.2.1/udp/9999/quic-v1/p2p/$gateway" >/tmp/host.log 2>&1 &
    end=$((SECONDS + 120))
    until ip netns exec host ping -q -c 1 -W 1 10.66.0.1 >/dev/null 2>&1; do
        ((SECONDS < end)) || { tail -n 20 /tmp/gateway.log /tmp/host.log; return 1; }
        sleep 0.2
    done
    ip netns exec host ping -q -c 20 -i 0.05 10.66.0.1 | grep ' 0% packet loss'
    kill %1 %2
    wait %1 && wait %2
}

gone() {
    local left
    left=$(find / -xdev \( -path '*cryprq*' -o -user cryprq \) ! -path '/tmp/*' ! -path '/packages*' ! -path '/proc/*' 2>/dev/null || true)
    [[ -z $left ]] || { echo "left: $left"; return 1; }
    ! getent passwd cryprq && ! getent group cryprq
}

# inside ROOT SUITE ARCHITECTURE NATIVE: the second half of this script, in namespaces that the first half makes.
inside() {
    local version id
    where="$2 $3"
    enter "$1"
    ip link set lo up
    version=$(dpkg-deb -f /packages/new.deb Version)
    apt install /packages/old.deb
    holds "a lower version is installed" installed 0.0.1-1
    id=$(cryprq keygen)
    holds "an identity is made, secret" owner /var/lib/cryprq/identity "root 600"
    echo 'mtu = 1300' >>/etc/cryprq/node.toml
    apt install /packages/new.deb
    holds "it is upgraded" installed "$version"
    holds "the configuration that was changed is kept" conffile_is_kept
    rm /etc/cryprq/node.toml.dpkg-dist
    holds "the identity is the same" test "$(cryprq id /var/lib/cryprq/identity)" = "$id"
    chown root /var/lib/cryprq/identity
    holds "what root makes is the node's when the service starts" repaired
    holds "the state is the service's" owner /var/lib/cryprq "cryprq 700"
    holds "bytecode is there" compgen -G "/usr/lib/cryprq/cryprq/__pycache__/*.pyc" >/dev/null
    holds "--version and --check" checks
    grep -qF "cryprq-node ${version%-*}" /tmp/version || failed "$(cat /tmp/version)"
    holds "isolated from other packages" isolated
    holds "systemd-analyze verify" unit_is_good
    holds "pages and completions" pages_are_there
    holds "records are sealed and opened" self_test
    [[ $4 == 0 ]] || holds "a tunnel" tunnel
    apt remove cryprq
    holds "removed, the identity and the configuration stay" test -e /var/lib/cryprq/identity -a -e /etc/cryprq/node.toml
    holds "and nothing of the programs" test ! -e /usr/lib/cryprq -a ! -e /usr/bin/cryprq
    apt install /packages/new.deb
    holds "installed again, the identity is the same" test "$(cryprq id /var/lib/cryprq/identity)" = "$id"
    apt purge cryprq
    holds "purge says what it removes" grep -q "removes this node's identity" /tmp/apt.log
    holds "purged, nothing is left" gone
}

if [[ ${1:-} == inside ]]; then
    shift
    inside "$@"
    exit
fi

# ---- outside ----

suites=(bookworm trixie) boot=0
while [[ ${1:-} == --* ]]; do
    case $1 in
        --suite)
            [[ ${2:-} =~ ^[a-z]+$ ]] || die "--suite wants the name of a Debian, as bookworm or trixie"
            suites=("$2")
            shift
            ;;
        --boot) boot=1 ;;
        *) die "usage: $0 [--suite SUITE] [--boot] DEB..." ;;
    esac
    shift
done
(($# > 0)) || die "usage: $0 [--suite SUITE] [--boot] DEB..."
for deb; do
    [[ -f $deb ]] || die "there is no $deb"
done
[[ $EUID -eq 0 ]] || die "not root: debootstrap has to make device nodes and to chroot"
[[ -c /dev/net/tun ]] || die "no /dev/net/tun: modprobe tun"
"$top/scripts/bootstrap.sh" --images || exit 2

work=$(mktemp -d "${TMPDIR:-/var/tmp}/cryprq-deb.XXXXXX")
runner=
# shellcheck disable=SC2329  # the trap calls it
clean_up() {
    # All that runs in there ends with it, and the mounts are gone with the last of it.
    [[ -z $runner ]] || { kill -KILL "$runner" && wait "$runner"; } 2>/dev/null || true
    rm -rf --one-file-system -- "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# lower DEB FILE: the same package as version 0.0.1, with another configuration file.
lower() {
    dpkg-deb -R "$1" "$work/lower"
    sed -i 's/^Version: .*/Version: 0.0.1-1/' "$work/lower/DEBIAN/control"
    echo '# Of version 0.0.1.' >>"$work/lower/etc/cryprq/node.toml"
    dpkg-deb -Znone --build "$work/lower" "$2" >/dev/null
    rm -rf "$work/lower"
}

# in_background COMMAND...: so that a signal is heeded at once; its exit status.
in_background() {
    local status=0
    "$@" &
    runner=$!
    wait "$runner" || status=$?
    runner=
    return "$status"
}

# furnished ROOT SUITE ARCHITECTURE DEB: a bare system with what the package depends on, and the packages.
furnished() {
    make_root "$1" "$2" "$3" python3,systemd,systemd-sysv,dbus,iproute2,iputils-ping deb
    mkdir "$1/packages"
    cp "$4" "$1/packages/new.deb"
    lower "$4" "$1/packages/old.deb"
}

# test_one SUITE ARCHITECTURE DEB
test_one() {
    local root=$work/root native=0 start=$SECONDS
    [[ $2 != "$(dpkg --print-architecture)" ]] || native=1
    furnished "$root" "$1" "$2" "$3"
    in_background unshare --mount --propagation private --uts --ipc --net --pid --fork --kill-child env -i \
        HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
        "$top/release/test_deb.sh" inside "$root" "$1" "$2" "$native" || status=1 die "failed on $1, $2"
    rm -rf --one-file-system -- "$root"
    if [[ $boot == 1 && $native == 1 ]]; then
        furnished "$root" "$1" "$2" "$3"
        in_background "$top/release/boot_deb.sh" "$root" || status=1 die "failed under the systemd of $1"
        rm -rf --one-file-system -- "$root"
    fi
    say "$(basename "$3"): passes on $1 ($((SECONDS - start)) s)"
}

for deb; do
    architecture=$(dpkg-deb -f "$deb" Architecture)
    if [[ $architecture != "$(dpkg --print-architecture)" && ${EMULATED:-} != 1 ]]; then
        for suite in "${suites[@]}"; do
            in_background env EMULATED=1 "$top/release/with_emulator.sh" "$architecture" "$top/release/test_deb.sh" \
                --suite "$suite" "$deb"
        done
        continue
    fi
    for suite in "${suites[@]}"; do
        test_one "$suite" "$architecture" "$deb"
    done
done
