#!/usr/bin/env bash
# Brings the tunnels that bench/tunnel.py compares with, as new as Debian and crates have them, into a folder:
#
#     bench/peers.sh [--dir DIRECTORY] [--gotatun VERSION]        (build/peers unless told, 0.10.2)
#     PATH=$PWD/build/peers/bin:$PATH bench/tunnel.py
#
# wireguard-go and nebula are programs without libraries of their own: the packages of Debian unstable are unpacked, not
# installed. wg and openvpn are the packages of this machine's release; openvpn is installed, since it has libraries,
# and only as root. gotatun is compiled, if there is a cargo that is new enough (some minutes). What can't be had is
# said, and left out.
set -euo pipefail
cd "$(dirname "$0")/.."

directory=build/peers
gotatun=0.10.2
while [ $# -gt 0 ]; do
    case $1 in
    --dir | --gotatun)
        [ $# -gt 1 ] || { echo "peers: $1 needs a value" >&2; exit 2; }
        if [ "$1" = --dir ]; then directory=$2; else gotatun=$2; fi
        shift 2
        ;;
    -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "$0" | sed '$d'; exit 0 ;;
    *) echo "peers: usage: bench/peers.sh [--dir DIRECTORY] [--gotatun VERSION]" >&2; exit 2 ;;
    esac
done
command -v apt-get dpkg-deb >/dev/null || { echo "peers: needs apt-get and dpkg-deb of Debian" >&2; exit 1; }

mkdir -p "$directory/bin" "$directory/apt/lists/partial" "$directory/apt/cache/archives/partial"
directory=$(cd "$directory" && pwd)
# shellcheck disable=SC2016  # apt expands it
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keyring] $mirror unstable main" >"$directory/apt/sources.list"
unstable=(-qq -o "Dir::Etc::SourceList=$directory/apt/sources.list" -o Dir::Etc::SourceParts=-
    -o "Dir::State::Lists=$directory/apt/lists" -o "Dir::Cache=$directory/apt/cache"
    -o "APT::Sandbox::User=root" -o Acquire::Languages=none)

# take PACKAGE FILE... [-- APT OPTION...]: the programs of a package, unpacked
take() {
    local package=$1 unpacked=$directory/$1
    shift
    local files=()
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        files+=("$1")
        shift
    done
    rm -rf "$unpacked" && mkdir -p "$unpacked"
    if ! (cd "$unpacked" && apt-get "${@:2}" download "$package" >/dev/null 2>apt.log); then
        echo "peers: no $package: $(head -n 1 "$unpacked/apt.log")" >&2
        return 0
    fi
    dpkg-deb -x "$unpacked"/*.deb "$unpacked"
    for file in "${files[@]}"; do
        ln -sf "$unpacked/usr/bin/$file" "$directory/bin/$file"
    done
    echo "peers: $(basename "$unpacked"/*.deb .deb)"
}

apt-get "${unstable[@]}" update
take wireguard-go wireguard-go -- "${unstable[@]}"
take nebula nebula nebula-cert -- "${unstable[@]}"
take wireguard-tools wg
if ! command -v openvpn >/dev/null && [ ! -x /usr/sbin/openvpn ]; then
    if [ "$(id -u)" = 0 ]; then
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends openvpn >/dev/null
    else
        echo "peers: no openvpn: apt-get install openvpn, as root" >&2
    fi
fi
if ! command -v cargo >/dev/null; then
    echo "peers: no gotatun: there is no cargo" >&2
elif ! cargo install --quiet --locked --root "$directory" --version "$gotatun" gotatun-cli; then
    echo "peers: gotatun $gotatun did not compile here" >&2
fi
ls "$directory/bin"
