#!/bin/sh
# Started as root with the capabilities NET_ADMIN, SETUID and SETGID: becomes the user cryprq, keeps NET_ADMIN alone, and
# then is the node itself (exec), so signals reach it. --cap-add does not give a capability to an image's USER, which is
# why the change of user is made here. What the container lacks, the node says.
#
#   entrypoint.sh --listen ...      the node with these flags
#   entrypoint.sh cryprq status     or another program of the image, as the same user
set -eu

case "${1:-}" in
    cryprq | cryprq-node | sleep) ;;
    *) set -- cryprq-node "$@" ;;
esac
if [ "$(id -u)" -ne 0 ]; then
    exec "$@" # started with --user: whatever it was given, it has
fi
become="setpriv --reuid=cryprq --regid=cryprq --clear-groups --no-new-privs"
capabilities=$(sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status)
if [ $((0x$capabilities >> 12 & 1)) -eq 1 ]; then # bit 12 is CAP_NET_ADMIN (capability.h)
    become="$become --inh-caps=-all,+net_admin --ambient-caps=-all,+net_admin"
fi
if [ -c /dev/net/tun ]; then
    # The container's own node of it, with the host's mode: some hosts let only root open it.
    setpriv --reuid=cryprq --clear-groups test -w /dev/net/tun || chmod a+rw /dev/net/tun
fi
# shellcheck disable=SC2086  # a list of words
exec $become -- "$@"
