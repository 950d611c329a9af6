#define _GNU_SOURCE
#include "cq_io.h"
#include "cq_wipe.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif
#ifndef IPV6_DONTFRAG
#define IPV6_DONTFRAG 62
#endif

/* UDP_MAX_SEGMENTS of the kernel's <linux/udp.h>, which it does not show */
#define SEGMENTS_MAX 128
#define SEGMENTS_MAX_BEFORE_6_9 64

#define SEND_EACH_CHUNK 64 /* datagrams per sendmmsg: their headers are on the stack */
#define PAGE 4096u         /* batches begin at one */

static const uint8_t mapped_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

/* Room for the largest set of control messages that is asked for: PKTINFO of both families, UDP_GRO and the traffic
 * class. */
enum {
    CONTROL_SIZE = CMSG_SPACE(sizeof(struct in6_pktinfo)) + CMSG_SPACE(sizeof(struct in_pktinfo)) +
        CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(int)),
};

union control {
    struct cmsghdr align;
    char space[CONTROL_SIZE];
};

union sockaddr_any {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* ---- addresses ---- */

static bool is_mapped(const uint8_t host[16]) { return memcmp(host, mapped_prefix, sizeof mapped_prefix) == 0; }

static bool is_link_local(const uint8_t host[16]) { return host[0] == 0xfe && (host[1] & 0xc0) == 0x80; }

static void map_v4(uint8_t host[16], const void *v4)
{
    memcpy(host, mapped_prefix, sizeof mapped_prefix);
    memcpy(host + 12, v4, 4);
}

static void read_sockaddr(const union sockaddr_any *sa, struct cq_address *out)
{
    memset(out, 0, sizeof *out);
    if (sa->any.sa_family == AF_INET) {
        map_v4(out->host, &sa->v4.sin_addr);
        out->port = ntohs(sa->v4.sin_port);
        out->family = 4;
    } else if (sa->any.sa_family == AF_INET6) {
        memcpy(out->host, &sa->v6.sin6_addr, 16);
        out->port = ntohs(sa->v6.sin6_port);
        out->family = is_mapped(out->host) ? 4 : 6;
        if (is_link_local(out->host))
            out->scope = sa->v6.sin6_scope_id;
    }
}

static socklen_t write_sockaddr(const struct cq_address *a, int family, union sockaddr_any *out)
{
    memset(out, 0, sizeof *out);
    if (family == AF_INET) {
        out->v4.sin_family = AF_INET;
        out->v4.sin_port = htons(a->port);
        memcpy(&out->v4.sin_addr, a->host + 12, 4);
        return sizeof out->v4;
    }
    out->v6.sin6_family = AF_INET6;
    out->v6.sin6_port = htons(a->port);
    out->v6.sin6_scope_id = a->scope;
    memcpy(&out->v6.sin6_addr, a->host, 16);
    return sizeof out->v6;
}

/* ---- UDP in ---- */

struct cq_udp_batch {
    unsigned count;
    size_t size;
    uint8_t *memory;
    struct mmsghdr *headers;
    struct iovec *iov;
    union sockaddr_any *names;
    union control *controls;
};

struct cq_udp_batch *cq_io_batch_new(unsigned count, size_t size)
{
    struct cq_udp_batch *b = calloc(1, sizeof *b);
    if (b == NULL)
        return NULL;
    b->count = count;
    b->size = size;
    b->memory = aligned_alloc(PAGE, ((size_t)count * size + PAGE - 1) & ~(size_t)(PAGE - 1));
    b->headers = calloc(count, sizeof *b->headers);
    b->iov = calloc(count, sizeof *b->iov);
    b->names = calloc(count, sizeof *b->names);
    b->controls = calloc(count, sizeof *b->controls);
    if (b->memory == NULL || b->headers == NULL || b->iov == NULL || b->names == NULL || b->controls == NULL) {
        cq_io_batch_free(b);
        return NULL;
    }
    for (unsigned i = 0; i < count; i++) {
        b->iov[i] = (struct iovec){.iov_base = b->memory + i * size, .iov_len = size};
        b->headers[i].msg_hdr.msg_iov = &b->iov[i];
        b->headers[i].msg_hdr.msg_iovlen = 1;
    }
    return b;
}

void cq_io_batch_free(struct cq_udp_batch *b)
{
    if (b == NULL)
        return;
    cq_wipe_free(b->memory, b->count * b->size);
    free(b->headers);
    free(b->iov);
    free(b->names);
    free(b->controls);
    free(b);
}

int cq_io_receive(int fd, struct cq_udp_batch *b)
{
    for (unsigned i = 0; i < b->count; i++) { /* the kernel wrote into these on the last call */
        struct msghdr *h = &b->headers[i].msg_hdr;
        h->msg_name = &b->names[i];
        h->msg_namelen = sizeof b->names[i];
        h->msg_control = &b->controls[i];
        h->msg_controllen = sizeof b->controls[i];
        h->msg_flags = 0;
    }
    int n;
    do
        n = recvmmsg(fd, b->headers, b->count, MSG_DONTWAIT, NULL);
    while (n < 0 && errno == EINTR);
    if (n >= 0)
        return n;
    return errno == EAGAIN ? 0 : -errno;
}

void cq_io_message(struct cq_udp_batch *b, unsigned i, struct cq_udp_message *m)
{
    struct msghdr *h = &b->headers[i].msg_hdr;
    memset(m, 0, sizeof *m);
    m->data = b->iov[i].iov_base;
    m->length = b->headers[i].msg_len;
    m->segment = m->length;
    m->truncated = (h->msg_flags & MSG_TRUNC) != 0;
    read_sockaddr(&b->names[i], &m->from.remote);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(h); c != NULL; c = CMSG_NXTHDR(h, c)) {
        if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) {
            int size;
            memcpy(&size, CMSG_DATA(c), sizeof size);
            if (size > 0 && (size_t)size < m->length)
                m->segment = (size_t)size;
        } else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof info);
            map_v4(m->from.local, &info.ipi_addr);
            m->from.source = CQ_SOURCE_PINNED;
        } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
            struct in6_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof info);
            memcpy(m->from.local, &info.ipi6_addr, 16);
            m->from.source = CQ_SOURCE_PINNED;
            if (is_link_local(m->from.local))
                m->from.local_scope = (uint32_t)info.ipi6_ifindex;
        } else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS) {
            m->ecn = (enum cq_ecn)(*(const uint8_t *)CMSG_DATA(c) & CQ_CLASS_ECN);
        } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS) {
            int class;
            memcpy(&class, CMSG_DATA(c), sizeof class);
            m->ecn = (enum cq_ecn)((unsigned)class & CQ_CLASS_ECN);
        }
    }
}

/* ---- UDP out ---- */

static void append_cmsg(struct msghdr *h, int level, int type, const void *data, size_t n)
{
    struct cmsghdr *c = (struct cmsghdr *)((char *)h->msg_control + h->msg_controllen);
    memset(c, 0, CMSG_SPACE(n));
    c->cmsg_level = level;
    c->cmsg_type = type;
    c->cmsg_len = CMSG_LEN(n);
    memcpy(CMSG_DATA(c), data, n);
    h->msg_controllen += CMSG_SPACE(n);
}

/* Fills in everything but the payload. Returns false if a socket of this family cannot reach the address. */
static bool prepare(struct msghdr *h, int family, const struct cq_endpoint *to, uint8_t class, union sockaddr_any *name,
                    union control *control, size_t segment)
{
    if (to->remote.family == 0 || (family == AF_INET && to->remote.family != 4))
        return false;
    memset(h, 0, sizeof *h);
    h->msg_name = name;
    h->msg_namelen = write_sockaddr(&to->remote, family, name);
    h->msg_control = control;
    if (to->source == CQ_SOURCE_PINNED && family == AF_INET) {
        struct in_pktinfo info = {0};
        memcpy(&info.ipi_spec_dst, to->local + 12, 4);
        append_cmsg(h, IPPROTO_IP, IP_PKTINFO, &info, sizeof info);
    } else if (to->source == CQ_SOURCE_PINNED) {
        struct in6_pktinfo info = {.ipi6_ifindex = to->local_scope};
        memcpy(&info.ipi6_addr, to->local, 16);
        append_cmsg(h, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof info);
    }
    if (segment != 0) {
        uint16_t size = (uint16_t)segment;
        append_cmsg(h, SOL_UDP, UDP_SEGMENT, &size, sizeof size);
    }
    if (class != 0) {
        const int value = class;
        const bool four = to->remote.family == 4; /* by any socket */
        append_cmsg(h, four ? IPPROTO_IP : IPPROTO_IPV6, four ? IP_TOS : IPV6_TCLASS, &value, sizeof value);
    }
    if (h->msg_controllen == 0)
        h->msg_control = NULL;
    return true;
}

int cq_io_send(int fd, int family, const struct cq_endpoint *to, uint8_t class, const uint8_t *data, size_t length,
               size_t segment)
{
    union sockaddr_any name;
    union control control;
    struct msghdr h;
    struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = length};
    if (!prepare(&h, family, to, class, &name, &control, segment < length ? segment : 0))
        return -EAFNOSUPPORT;
    h.msg_iov = &iov;
    h.msg_iovlen = 1;
    ssize_t n;
    do
        n = sendmsg(fd, &h, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

unsigned cq_io_send_each(int fd, int family, const struct cq_endpoint *to, uint8_t class, const uint8_t *data,
                         size_t length, size_t segment, int *error)
{
    union sockaddr_any name;
    union control control;
    struct msghdr h;
    struct mmsghdr headers[SEND_EACH_CHUNK];
    struct iovec iov[SEND_EACH_CHUNK];
    unsigned sent = 0;
    *error = 0;
    if (!prepare(&h, family, to, class, &name, &control, 0)) {
        *error = EAFNOSUPPORT;
        return 0;
    }
    for (size_t offset = 0; offset < length;) {
        unsigned n = 0;
        for (size_t at = offset; at < length && n < SEND_EACH_CHUNK; at += segment, n++) {
            size_t size = length - at < segment ? length - at : segment;
            iov[n] = (struct iovec){.iov_base = (void *)(uintptr_t)(data + at), .iov_len = size};
            headers[n].msg_hdr = h;
            headers[n].msg_hdr.msg_iov = &iov[n];
            headers[n].msg_hdr.msg_iovlen = 1;
        }
        int done = sendmmsg(fd, headers, n, MSG_DONTWAIT);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0) {
            *error = errno;
            return sent;
        }
        sent += (unsigned)done;
        offset += (size_t)done * segment;
    }
    return sent;
}

void cq_io_set_whole(int fd, int version, bool whole)
{
    if (version == 4) {
        const int discover = whole ? IP_PMTUDISC_PROBE : IP_PMTUDISC_DONT;
        (void)setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &discover, sizeof discover);
        return;
    }
    const int discover = whole ? IPV6_PMTUDISC_PROBE : IPV6_PMTUDISC_WANT, dont = whole;
    (void)setsockopt(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &discover, sizeof discover);
    (void)setsockopt(fd, IPPROTO_IPV6, IPV6_DONTFRAG, &dont, sizeof dont); /* else it is we who fragment */
}

/* ---- TUN ---- */

ssize_t cq_io_tun_read(int fd, bool has_vnet, struct cq_vnet *vnet, uint8_t *packet, size_t size)
{
    struct iovec iov[2] = {{.iov_base = vnet, .iov_len = sizeof *vnet}, {.iov_base = packet, .iov_len = size}};
    ssize_t n;
    memset(vnet, 0, sizeof *vnet);
    do
        n = has_vnet ? readv(fd, iov, 2) : read(fd, packet, size);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN ? 0 : -errno;
    if (!has_vnet)
        return n;
    return n > (ssize_t)sizeof *vnet ? n - (ssize_t)sizeof *vnet : -EBADMSG;
}

int cq_io_tun_write(int fd, bool has_vnet, uint8_t *packet, size_t n)
{
    struct cq_vnet none = {0};
    struct iovec iov[2] = {{.iov_base = &none, .iov_len = sizeof none}, {.iov_base = packet, .iov_len = n}};
    ssize_t written;
    do
        written = has_vnet ? writev(fd, iov, 2) : write(fd, packet, n);
    while (written < 0 && errno == EINTR);
    return written < 0 ? -errno : 0;
}

/* ---- waiting ---- */

bool cq_io_linger(uint64_t until_ns)
{
    if (cq_io_now_ns() >= until_ns)
        return false;
    sched_yield();
    return true;
}

/* Only this worker reads it: it cannot have become empty meanwhile. */
static void drain(const struct pollfd *wake)
{
    uint64_t count;
    if ((wake->revents & POLLIN) == 0)
        return;
    ssize_t n = read(wake->fd, &count, sizeof count);
    (void)n;
}

int cq_io_wait(const int *fds, size_t count, int wake, int timeout_ms)
{
    struct pollfd p[CQ_GROUPS_MAX + 1] = {{.fd = wake, .events = POLLIN}};
    for (size_t i = 0; i < count; i++)
        p[1 + i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
    if (poll(p, 1 + count, timeout_ms) < 0 && errno != EINTR)
        return -errno;
    drain(&p[0]);
    return 0;
}

int cq_io_wait_for_room(int fd, int wake, const int *full, unsigned count, int timeout_ms)
{
    struct pollfd p[2 + CQ_IO_FULL_MAX] = {{.fd = wake, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
    for (unsigned i = 0; i < count; i++)
        p[2 + i] = (struct pollfd){.fd = full[i], .events = POLLOUT};
    if (poll(p, 2 + count, timeout_ms) < 0 && errno != EINTR)
        return -errno;
    drain(&p[0]);
    return 0;
}

void cq_io_pause(int ms) { (void)poll(NULL, 0, ms); }

void cq_io_wake(int wake)
{
    const uint64_t one = 1;
    ssize_t n = write(wake, &one, sizeof one); /* EAGAIN means that the counter is full: it is readable anyway */
    (void)n;
}

unsigned cq_io_max_segments(void)
{
    struct utsname u;
    unsigned major, minor;
    if (uname(&u) == 0 && sscanf(u.release, "%u.%u", &major, &minor) == 2 && (major > 6 || (major == 6 && minor >= 9)))
        return SEGMENTS_MAX;
    return SEGMENTS_MAX_BEFORE_6_9;
}

uint64_t cq_io_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t cq_io_random(void)
{
    uint64_t value = 0;
    if (getrandom(&value, sizeof value, 0) != sizeof value)
        value = cq_io_now_ns(); /* it hardly can fail: not for so few bytes (getrandom(2)) */
    return value;
}
