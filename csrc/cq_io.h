/*
 * Batches in and out of the kernel: datagrams with UDP_GRO, UDP_SEGMENT and the local address (PKTINFO), packets with
 * a virtio_net_hdr. The only file that knows the platform's socket and TUN details; it opens and closes nothing.
 */
#ifndef CQ_IO_H
#define CQ_IO_H

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "cq_class.h"
#include "cq_endpoint.h"
#include "cq_vnet.h"

/* ---- UDP in ---- */

struct cq_udp_message {
    uint8_t *data;
    size_t length;
    size_t segment; /* stride of the datagrams inside; length if it is one */
    struct cq_endpoint from;
    enum cq_ecn ecn; /* of all datagrams inside: the kernel merges none that differ in it */
    bool truncated;
};

struct cq_udp_batch; /* buffers for one recvmmsg */

/* Buffers for up to count messages of up to size bytes. NULL when memory is short. */
struct cq_udp_batch *cq_io_batch_new(unsigned count, size_t size);
void cq_io_batch_free(struct cq_udp_batch *batch); /* wipes the buffers, where records were opened; NULL is fine */

/* Receives what is there without waiting. The number of messages, 0 if there is none, or -errno. */
int cq_io_receive(int fd, struct cq_udp_batch *batch);
void cq_io_message(struct cq_udp_batch *batch, unsigned i, struct cq_udp_message *message);

/* ---- UDP out ---- */

/* Sends data to an endpoint from a socket of the given family (AF_INET, or AF_INET6 dual-stack). With segment < length
 * the kernel cuts it into datagrams of segment bytes (UDP_SEGMENT). A traffic class of 0 is the socket's own. 0 or
 * -errno. */
int cq_io_send(int fd, int family, const struct cq_endpoint *to, uint8_t class, const uint8_t *data, size_t length,
               size_t segment);

/* The same cut made here: one datagram per segment. The number sent; *error is the errno that ended it, or 0. */
unsigned cq_io_send_each(int fd, int family, const struct cq_endpoint *to, uint8_t class, const uint8_t *data,
                         size_t length, size_t segment, int *error);

/* Whether datagrams over IPv4 or IPv6 (4 or 6) leave whole or not at all: with the Don't Fragment bit, whatever size the
 * kernel thinks that the path has (ICMP may have told it, and anybody sends that); EMSGSIZE where the link is smaller. */
void cq_io_set_whole(int fd, int version, bool whole);

/* ---- TUN ---- */

/* One read: the packet's length, 0 if there is none now, or -errno. vnet is zeroed where the TUN has none. */
ssize_t cq_io_tun_read(int fd, bool has_vnet, struct cq_vnet *vnet, uint8_t *packet, size_t size);

/* One packet that needs nothing done to it: 0 or -errno. */
int cq_io_tun_write(int fd, bool has_vnet, uint8_t *packet, size_t n);

/* ---- waiting ---- */

/* Before a wait: lets other threads run and returns true, as long as the time has not come. To look again is cheaper
 * than to be woken, above all where a CPU without work is halted, as a virtual one is. */
bool cq_io_linger(uint64_t until_ns);

/* Waits until one of count descriptors, at most CQ_GROUPS_MAX, or wake is readable (timeout_ms < 0: forever). Drains
 * wake. 0, or -errno. */
int cq_io_wait(const int *fds, size_t count, int wake, int timeout_ms);

/* The same for one, or until one of count full sockets has room for half of what it may hold. */
#define CQ_IO_FULL_MAX 16u
int cq_io_wait_for_room(int fd, int wake, const int *full, unsigned count, int timeout_ms);

void cq_io_pause(int ms);
void cq_io_wake(int wake);

/* Datagrams that one UDP_SEGMENT send may carry on this kernel (UDP_MAX_SEGMENTS: 64, from Linux 6.9 on 128). */
unsigned cq_io_max_segments(void);

uint64_t cq_io_now_ns(void); /* CLOCK_BOOTTIME */

uint64_t cq_io_random(void); /* a number that nobody can tell */

#endif
