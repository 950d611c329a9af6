#!/usr/bin/env bash
# An IPv4 route that is replaced, and replaced again by what it was, brings a path MTU back that the kernel had learnt
# before, if another route differs from it in nothing but the network.
#
#   What "fragmentation needed" has told is kept with the next hop (fib_info), and routes with the same next hop and the
#   same metrics share one. "ip route replace ... mtu 1200" gives the route another one, so the answer of "ip route get"
#   changes at once, and it seems that the learnt value is gone. But the old next hop lives on in the other route, with
#   all that it had learnt. When the metric is taken away again, the route shares it again.
#
# Whoever replaces routes to make a host forget a path MTU that has become wrong (a tunnel whose path has changed, say)
# sees it come back, for up to ten minutes (net.ipv4.route.mtu_expires), and only on hosts with several routes through
# that gateway. What helps: a metric that is the route's own, or writing to net.ipv4.route.flush, which forgets those of
# the whole host.
#
# Seen on Linux 6.18.44:
#   alone: learnt 1000, with a metric 1200, without it again: nothing
#   beside another route of the same next hop: learnt 1000, with a metric 1200, without it again: 1000
#
# Needs iproute2 and ping (iputils), and root or user namespaces. Exit status: 0 it is so, 1 it has changed, 2 it cannot
# run.
set -euo pipefail

if [[ ${1:-} != inside ]]; then
    namespaces=(--net --pid --fork --kill-child --mount-proc)
    ((EUID == 0)) || namespaces+=(--user --map-root-user)
    unshare "${namespaces[@]}" true || exit 2
    exec unshare "${namespaces[@]}" "${BASH_SOURCE[0]}" inside
fi

# The host is this namespace; a router and a far host are processes with networks of their own.
unshare --net sleep 60 & router=$!
unshare --net sleep 60 & far=$!
sleep 0.3
on() { nsenter --target "$1" --net "${@:2}"; }
ip link set lo up
ip link add near type veth peer name wide netns "$router"
on "$router" ip link add narrow type veth peer name end netns "$far"
ip address add 192.0.2.2/24 dev near
on "$router" ip address add 192.0.2.1/24 dev wide
on "$router" ip address add 10.1.0.1/24 dev narrow
on "$router" ip address add 10.2.0.1/24 dev narrow
on "$far" ip address add 10.1.0.2/24 dev end
ip link set near up
for link in wide narrow; do on "$router" ip link set "$link" up; done
on "$far" ip link set end up
on "$router" ip link set narrow mtu 1000
on "$router" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
on "$far" ip route add default via 10.1.0.1

# The path MTU that the host knows for the far one.
known() { ip route get 10.1.0.2 | grep -o 'mtu [0-9]*' | cut -d' ' -f2 || echo nothing; }

# What is known when a packet was too big, when the route has a metric, and when it has none again.
learn_and_replace() {
    ip route add 10.1.0.0/24 via 192.0.2.1
    ping -c 1 -W 1 -M "do" -s 1200 10.1.0.2 >/dev/null || true
    local learnt with without
    learnt=$(known)
    ip route replace 10.1.0.0/24 via 192.0.2.1 mtu 1200
    with=$(known)
    ip route replace 10.1.0.0/24 via 192.0.2.1
    without=$(known)
    ip route del 10.1.0.0/24
    echo "learnt $learnt, with a metric $with, without it again: $without"
}

echo "Linux $(uname -r)"
alone=$(learn_and_replace)
echo "alone: $alone"
ip route add 10.2.0.0/24 via 192.0.2.1
beside=$(learn_and_replace)
echo "beside another route of the same next hop: $beside"
[[ $alone == "learnt 1000, with a metric 1200, without it again: nothing" ]] || exit 1
[[ $beside == "learnt 1000, with a metric 1200, without it again: 1000" ]] || exit 1
