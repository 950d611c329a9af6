/*
 * What a packet costs on its way through either loop, without what the kernel costs: nanoseconds, the least of many
 * bursts, so that a busy machine changes little. One plane sends, another opens what it sent.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/uio.h>
#include <time.h>

#include "cq_plane.h"
#include "idle_io.h"
#include "packets.h"

static ssize_t take(int fd, const struct iovec *iov, int iovcnt);

/* For their static functions. The write to the TUN is the one system call in them. */
#define writev take
#include "../../csrc/cq_rx.c"
#include "../../csrc/cq_tx.c"
#undef writev

enum { INDEX = 7, BURSTS = 3000 };

/* What the TUN has, so many times over, and what left for the network last. */
static struct {
    uint8_t packet[PACKET_MAX];
    size_t length;
    struct cq_vnet vnet;
    unsigned reads;
} tun;

static struct {
    uint8_t data[CQ_SEND_MAX];
    size_t length, segment;
} network;

static ssize_t take(int fd, const struct iovec *iov, int iovcnt) { return (void)fd, (void)iov, iovcnt; }

int cq_io_send(int fd, int family, const struct cq_endpoint *to, uint8_t class, const uint8_t *data, size_t length,
               size_t segment)
{
    (void)fd, (void)family, (void)to, (void)class;
    memcpy(network.data, data, length);
    network.length = length;
    network.segment = segment;
    return 0;
}

unsigned cq_io_send_each(int fd, int family, const struct cq_endpoint *to, uint8_t class, const uint8_t *data,
                         size_t length, size_t segment, int *error)
{
    *error = cq_io_send(fd, family, to, class, data, length, segment);
    return (unsigned)((length + segment - 1) / segment);
}

ssize_t cq_io_tun_read(int fd, bool has_vnet, struct cq_vnet *vnet, uint8_t *packet, size_t size)
{
    (void)fd, (void)has_vnet, (void)size;
    if (tun.reads == 0)
        return 0;
    tun.reads--;
    *vnet = tun.vnet;
    memcpy(packet, tun.packet, tun.length);
    return (ssize_t)tun.length;
}

int cq_io_tun_write(int fd, bool has_vnet, uint8_t *packet, size_t n)
{
    (void)fd, (void)has_vnet, (void)packet, (void)n;
    return 0;
}

static struct cq_plane *plane_new(void)
{
    static const int fds[] = {-1};
    static const uint8_t secrets[CQ_LANE_SECRET_SIZE];
    static const struct cq_route_entry any[] = {{.family = 4}, {.family = 6}};
    const struct cq_worker_options options = {.workers = 1,
                                              .tun_fds = fds,
                                              .groups = 1,
                                              .udp_fds = fds,
                                              .families = {2},
                                              .mtu = 1420,
                                              .vnet_hdr = true,
                                              .tso4 = true,
                                              .tso6 = true,
                                              .uso = true,
                                              .udp_segment = true,
                                              .udp_gro = true,
                                              .coalesce = true,
                                              .packing = true};
    const struct cq_epoch_params params = {.rx_index = INDEX,
                                           .tx_index = INDEX,
                                           .suite = CQ_SUITE_AES_256_GCM,
                                           .tx_lanes = 1,
                                           .rx_lanes = 1,
                                           .tx_secrets = secrets,
                                           .rx_secrets = secrets,
                                           .expires_ns = UINT64_MAX,
                                           .limits = cq_epoch_default_limits()};
    const struct cq_endpoint somewhere = {.remote = {.port = 1, .family = 4}, .source = CQ_SOURCE_PINNED};
    struct cq_plane *plane = cq_plane_new(&options);
    struct cq_epoch *epoch = cq_epoch_new(&params, NULL);
    uint32_t handle;
    REQUIRE(plane != NULL && epoch != NULL);
    struct cq_tables *tables = &plane->shared.tables;
    REQUIRE(cq_table_add_peer(tables, &handle) == CQ_OK && cq_table_set_routes(tables, any, 2) == CQ_OK);
    REQUIRE(cq_table_install(tables, handle, epoch) == CQ_OK);
    REQUIRE(cq_table_activate(tables, INDEX) == CQ_OK && cq_table_promote(tables, INDEX) == CQ_OK);
    cq_endpoint_write(&cq_table_peer(tables, handle)->endpoint, &somewhere);
    return plane;
}

/* Holds peers to so many rules, of which one has all that passes here. */
static void hold(struct cq_plane *plane, unsigned rules)
{
    struct cq_access_rule *all = calloc(rules, sizeof *all);
    int error;
    REQUIRE(all != NULL);
    for (unsigned i = 0; i + 1 < rules; i++)
        all[i] = (struct cq_access_rule){.family = 4,
                                         .prefix = 24,
                                         .addr = {10, (uint8_t)(100 + i / 250), (uint8_t)(i % 250)},
                                         .first = cq_access_service(TCP, 1),
                                         .last = cq_access_service(TCP, 99)};
    all[rules - 1] = (struct cq_access_rule){.family = 4, .prefix = 8, .addr = {10}, .last = CQ_ACCESS_SERVICE_MAX};
    struct cq_permit *permit = cq_table_make_permit(&plane->shared.tables, all, rules, &error);
    const struct cq_table_permit change = {0, permit};
    REQUIRE(permit != NULL && cq_table_set_permits(&plane->shared.tables, &change, 1, permit) == CQ_OK);
    free(all);
}

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static double smaller(double a, double b) { return a < b ? a : b; }

/* Bursts of so many reads, each of a packet, or of a super-packet that is split every gso_size bytes. */
static void bench(const char *what, struct spec spec, uint16_t gso_size, unsigned reads, unsigned packets,
                  unsigned rules)
{
    struct cq_plane *sending = plane_new(), *receiving = plane_new();
    if (rules > 0) {
        hold(sending, rules);
        hold(receiving, rules);
    }
    struct cq_tx *tx = sending->tx[0];
    struct cq_rx *rx = receiving->rx[0];
    double out = 1e18, in = 1e18;
    for (unsigned i = 0; i < BURSTS; i++) {
        tun.length = build(tun.packet, &spec);
        tun.vnet = vnet_of(tun.packet, gso_size);
        put_partial(tun.packet, tun.length);
        tun.reads = reads;
        double start = now_ns();
        burst(tx, read_tun(tx), false);
        out = smaller(out, now_ns() - start);
        const struct cq_udp_message m = {
            .data = network.data, .length = network.length, .segment = network.segment, .from.remote.port = 1};
        start = now_ns();
        begin_batch(rx);
        message(rx, &m);
        end_batch(rx);
        in = smaller(in, now_ns() - start);
        advance(&spec);
    }
    const struct cq_peer *peer = cq_table_peer(&receiving->shared.tables, 0);
    REQUIRE(atomic_load(&peer->rx_packets) == (uint64_t)BURSTS * packets);
    printf("%-36s out %6.1f ns, in %6.1f ns a packet\n", what, out / packets, in / packets);
    cq_plane_free(sending);
    cq_plane_free(receiving);
}

int main(void)
{
    bench("TCP, 44 segments of a super-packet", spec_of(4, TCP, 44 * 1368), 1368, 1, 44, 0);
    bench("the same, with 1,000 rules", spec_of(4, TCP, 44 * 1368), 1368, 1, 44, 1000);
    bench("UDP, 1,392 bytes", spec_of(4, UDP, 1392), 0, 44, 44, 0);
    bench("the same, with 1,000 rules", spec_of(4, UDP, 1392), 0, 44, 44, 1000);
    bench("UDP, 64 bytes, packed", spec_of(4, UDP, 64), 0, 64, 64, 0);
    bench("the same, with 1,000 rules", spec_of(4, UDP, 64), 0, 64, 64, 1000);
    return 0;
}
