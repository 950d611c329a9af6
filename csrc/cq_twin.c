#define _GNU_SOURCE
#include "cq_twin.h"

#include <errno.h>
#include <linux/udp.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef SOL_UDP
#define SOL_UDP 17
#endif
#ifndef IPV6_DONTFRAG
#define IPV6_DONTFRAG 62
#endif

/* What may be on its way in the kernel before its peer counts as slow, and packets wait where they can be told apart. The
 * kernel doubles it and counts its own overhead: four batches or so, 25 ms at 100 Mbit/s. */
#define SEND_BUFFER (128 << 10)

struct option {
    int level, name;
};

static const struct option copied4[] = {{SOL_SOCKET, SO_MARK}, {IPPROTO_IP, IP_TTL}, {IPPROTO_IP, IP_MTU_DISCOVER}};
static const struct option copied6[] = {{IPPROTO_IPV6, IPV6_V6ONLY},
                                        {IPPROTO_IPV6, IPV6_UNICAST_HOPS},
                                        {IPPROTO_IPV6, IPV6_MTU_DISCOVER},
                                        {IPPROTO_IPV6, IPV6_DONTFRAG}};

static bool copy(int from, int to, const struct option *options, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int value, own;
        socklen_t size = sizeof value;
        if (getsockopt(from, options[i].level, options[i].name, &value, &size) != 0 ||
            getsockopt(to, options[i].level, options[i].name, &own, &size) != 0)
            return false;
        if (own != value && setsockopt(to, options[i].level, options[i].name, &value, size) != 0)
            return false;
    }
    return true;
}

/* The kernel merges what arrives (GRO) only for a socket that takes it merged, and looks for that socket before the group's
 * program can run: it picks any member, by a hash. One that took nothing merged would cost some peers the merging of all
 * that they send, though it is sent none of it. */
static void copy_merging(int from, int to)
{
    int on = 1; /* a kernel that does not say (before 6.2) is that of a node that has tried it */
    socklen_t size = sizeof on;
    (void)getsockopt(from, SOL_UDP, UDP_GRO, &on, &size);
    if (on != 0)
        (void)setsockopt(to, SOL_UDP, UDP_GRO, &on, sizeof on);
}

static bool shares_port(int fd)
{
    int value = 0;
    socklen_t size = sizeof value;
    return getsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &value, &size) == 0 && value != 0;
}

int cq_twin_open(int fd)
{
    static const int one = 1, room = SEND_BUFFER;
    struct sockaddr_storage name = {0};
    socklen_t size = sizeof name;
    if (getsockname(fd, (struct sockaddr *)&name, &size) != 0)
        return -errno;
    if ((name.ss_family != AF_INET && name.ss_family != AF_INET6) || !shares_port(fd))
        return -EOPNOTSUPP;
    int twin = socket(name.ss_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (twin < 0)
        return -errno;
    if (!copy(fd, twin, copied4, sizeof copied4 / sizeof copied4[0]) ||
        (name.ss_family == AF_INET6 && !copy(fd, twin, copied6, sizeof copied6 / sizeof copied6[0])) ||
        setsockopt(twin, SOL_SOCKET, SO_SNDBUF, &room, sizeof room) != 0 ||
        setsockopt(twin, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one) != 0 ||
        bind(twin, (const struct sockaddr *)&name, size) != 0) {
        int error = errno;
        close(twin);
        return -error;
    }
    copy_merging(fd, twin);
    return twin;
}

void cq_twin_close(int fd)
{
    if (fd >= 0)
        close(fd);
}
