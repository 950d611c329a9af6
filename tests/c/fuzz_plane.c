/*
 * Fuzzing of the two loops: what comes from a TUN goes through a sending plane, and what comes from the network, its
 * records among it, through a receiving one. There is neither kernel nor clock nor thread: cq_io.c is not linked.
 *
 * One input is byte 0 (which of the planes: offloads; bit 4: the TUN refuses super-packets; bit 5: the peer takes no more
 * than 600 bytes) and then steps: a control byte, u16 length, bytes.
 *
 *   kind 0  one read of the TUN: 10 bytes of a vnet header, then the packet
 *   kind 1  datagrams of a stranger: u16 stride, then the batch that GRO made of them
 *   kind 2  a record of the peer with any payload, which its own plane would not have sent; bit 2: VOUCHED
 *   kind 3  the kernel refuses the next sends: u8 how many, u8 errno
 *   bit 7   the TUN and the network have nothing more: what is under way goes out
 *
 * Whatever the input, no byte outside of a buffer is touched, no packet is written whose source is not the peer's, what
 * is written is what cq_coalesce promises the kernel, and every packet that was sent and did not get lost is counted
 * once by the other end: written, or dropped for its source.
 */
#define _GNU_SOURCE
#include <sys/uio.h>

#include "cq_plane.h"
#include "fuzz.h"
#include "idle_io.h"
#include "packets.h"

static ssize_t take(int fd, const struct iovec *iov, int iovcnt);

/* For their static functions. The write to the TUN is the one system call in them. */
#define writev take
#include "../../csrc/cq_rx.c"
#include "../../csrc/cq_tx.c"
#undef writev

enum { RIGS = 16, PENDING_MAX = 512, INDEX = 7, HOSTILE_LANE = 1, OTHER_PEER = 1 };

/* A sending and a receiving plane for one choice of options, and what goes on between them. */
struct rig {
    struct cq_plane *sending, *receiving;
    struct cq_peer *peer;   /* of the receiving one */
    struct cq_epoch *epoch; /* of the sending one */
    bool vnet;
};

static struct rig rigs[RIGS];
static struct rig *rig; /* in use */

static struct {
    const uint8_t *tun; /* reads that wait for the burst, as steps of the input */
    size_t tun_left;
    unsigned refusals;
    int refusal;
    uint8_t *pending[PENDING_MAX]; /* datagrams whose packets wait for the flush, each in a block of its own size */
    unsigned pending_count;
    bool refuses_super;       /* the TUN */
    uint64_t written;         /* packets */
    uint64_t sent, malformed; /* what the receiving end is to count */
} world;

/* ---- in place of the network and the TUN ---- */

static void arrive(const uint8_t *data, size_t n, size_t stride);

int cq_io_send(int fd, int family, const struct cq_endpoint *to, uint8_t class, const uint8_t *data, size_t length,
               size_t segment)
{
    (void)fd;
    (void)family;
    (void)class;
    HOLDS(to->remote.family != 0 && length <= CQ_SEND_MAX && length > segment && segment > 0);
    if (world.refusals > 0)
        return world.refusals--, -world.refusal;
    arrive(data, length, segment);
    return 0;
}

unsigned cq_io_send_each(int fd, int family, const struct cq_endpoint *to, uint8_t class, const uint8_t *data,
                         size_t length, size_t segment, int *error)
{
    unsigned sent = 0;
    (void)fd;
    (void)family;
    (void)class;
    HOLDS(to->remote.family != 0 && segment > 0);
    *error = 0;
    for (size_t at = 0; at < length; at += segment, sent++) {
        if (world.refusals > 0) {
            world.refusals--;
            *error = world.refusal;
            return sent;
        }
        size_t n = length - at < segment ? length - at : segment;
        arrive(data + at, n, n);
    }
    return sent;
}

ssize_t cq_io_tun_read(int fd, bool has_vnet, struct cq_vnet *vnet, uint8_t *packet, size_t size)
{
    (void)fd;
    memset(vnet, 0, sizeof *vnet);
    if (world.tun_left < 3 + CQ_VNET_SIZE)
        return 0;
    size_t n = cq_get16(world.tun + 1);
    if (has_vnet)
        memcpy(vnet, world.tun + 3, sizeof *vnet);
    HOLDS(n >= CQ_VNET_SIZE && n - CQ_VNET_SIZE <= size);
    memcpy(packet, world.tun + 3 + CQ_VNET_SIZE, n - CQ_VNET_SIZE);
    world.tun += 3 + n;
    world.tun_left -= 3 + n;
    return (ssize_t)(n - CQ_VNET_SIZE);
}

/* An answer of the sending plane: whole, with right checksums, and to none of its own kind. */
int cq_io_tun_write(int fd, bool has_vnet, uint8_t *packet, size_t n)
{
    const bool four = packet[0] >> 4 == 4;
    const size_t header = four ? 20 : 40;
    (void)fd;
    HOLDS(has_vnet == rig->vnet && cq_packet_length(packet, n) == n);
    HOLDS(n >= 2 * header + 8 && n <= (four ? 576u : 1280u) && packet[four ? 9 : 6] == (four ? 1 : 58));
    if (four)
        HOLDS(naive_fold(naive_sum(packet, 20)) == 0xffff);
    HOLDS(naive_fold(naive_sum(packet + header, n - header) +
                     (four ? 0 : naive_sum(packet + 8, 32) + (n - header) + 58)) == 0xffff);
    const uint8_t *quoted = packet + header + 8; /* an IPv6 chain may hide an error: the builder's own test has those */
    HOLDS(quoted[0] >> 4 == packet[0] >> 4);
    HOLDS(quoted[four ? 9 : 6] != (four ? 1 : 58) || quoted[ip_size(quoted)] != packet[header]);
    return 0;
}

/* ---- what the receiving plane writes ---- */

static bool allowed(const uint8_t *p) { return p[0] >> 4 == 4 ? p[12] == 10 : p[8] == 0xfd; }

static ssize_t take(int fd, const struct iovec *iov, int iovcnt)
{
    static uint8_t packet[CQ_DATAGRAM_MAX + 1];
    struct cq_vnet v = {0};
    size_t n = 0, packets = 1;
    int first = rig->vnet ? 1 : 0;
    (void)fd;
    HOLDS(iovcnt > first && iovcnt <= 1024);
    for (int i = first; i < iovcnt; i++) {
        HOLDS(n + iov[i].iov_len <= CQ_DATAGRAM_MAX);
        memcpy(packet + n, iov[i].iov_base, iov[i].iov_len);
        n += iov[i].iov_len;
    }
    HOLDS(cq_packet_length(packet, n) == n && allowed(packet));
    if (first) {
        HOLDS(iov[0].iov_len == sizeof v);
        memcpy(&v, iov[0].iov_base, sizeof v);
    }
    if (v.flags != 0) {
        int protocol;
        HOLDS(v.flags == 1 && (size_t)v.csum_start + v.csum_offset + 2 <= v.hdr_len && v.hdr_len <= n);
        if (v.gso_type != 0) { /* no extension headers then */
            size_t l4 = transport_of(packet, &protocol), payload = n - v.hdr_len;
            HOLDS(v.gso_type == (protocol == UDP ? 5 : packet[0] >> 4 == 4 ? 1 : 4));
            HOLDS(v.csum_start == l4 && v.csum_offset == checksum_offset(protocol) && v.hdr_len == headers_of(packet));
            HOLDS(v.gso_size > 0 && v.gso_size < payload && payload <= 64u * v.gso_size);
            HOLDS(cq_get16(packet + l4 + v.csum_offset) == naive_fold(naive_pseudo(packet, n)));
            packets = (payload + v.gso_size - 1) / v.gso_size;
        }
    } else {
        HOLDS(v.gso_type == 0 && v.gso_size == 0);
    }
    HOLDS(packets == 1 || (size_t)iovcnt == first + packets);
    if (packets > 1 && world.refuses_super)
        return errno = EINVAL, -1;
    world.written += packets;
    return (ssize_t)n;
}

/* ---- into the receiving plane ---- */

static void deliver_pending(void)
{
    cq_coalesce_flush(rig->receiving->rx[0]->coalesce);
    settle(rig->receiving->rx[0]);
    while (world.pending_count > 0)
        block_free(world.pending[--world.pending_count]);
}

static void arrive(const uint8_t *data, size_t n, size_t stride)
{
    if (world.pending_count == PENDING_MAX)
        deliver_pending();
    uint8_t *block = memcpy(block_new(n), data, n);
    world.pending[world.pending_count++] = block;
    struct cq_udp_message m = {.data = block, .length = n, .segment = stride > 0 && stride < n ? stride : n};
    m.from.remote = (struct cq_address){.port = 1, .family = 4};
    message(rig->receiving->rx[0], &m);
}

/* What docs/protocol.md, section 4, says of a payload: whole packets, in-band messages, padding. */
static void expect(const uint8_t *p, size_t n)
{
    for (size_t length; n > 0 && p[0] >> 4 != 0; p += length, n -= length) {
        if (p[0] >> 4 == 1)
            length = n >= 3 ? 3u + cq_get16(p + 1) : n + 1;
        else if (p[0] >> 4 == 4 && n >= 20 && (p[0] & 15) >= 5 && cq_get16(p + 2) >= (p[0] & 15) * 4)
            length = cq_get16(p + 2);
        else if (p[0] >> 4 == 6 && n >= 40)
            length = 40u + cq_get16(p + 4);
        else
            length = n + 1;
        if (length > n) {
            world.malformed++;
            return;
        }
        world.sent += p[0] >> 4 != 1;
    }
}

static void hostile_record(const uint8_t *payload, size_t n, bool vouched)
{
    uint8_t *sealed = block_new(n + CQ_OVERHEAD);
    REQUIRE(cq_epoch_seal(rig->epoch, HOSTILE_LANE, vouched, payload, n, sealed) == CQ_OK);
    expect(payload, n);
    arrive(sealed, n + CQ_OVERHEAD, 0);
    block_free(sealed);
}

/* ---- the rigs ---- */

static struct cq_plane *plane_new(unsigned options, bool receiving)
{
    static const int fds[] = {-1};
    const struct cq_worker_options o = {.workers = 1,
                                        .tun_fds = fds,
                                        .groups = 1,
                                        .udp_fds = fds,
                                        .families = {2},
                                        .mtu = options & 8 ? 9000 : 1420,
                                        .vnet_hdr = options & 1,
                                        .tso4 = true,
                                        .tso6 = true,
                                        .uso = true,
                                        .udp_segment = true,
                                        .udp_gro = true,
                                        .coalesce = options & 2,
                                        .packing = options & 4};
    uint8_t secrets[2 * CQ_LANE_SECRET_SIZE];
    uint32_t handle;
    struct cq_plane *plane = cq_plane_new(&o);
    REQUIRE(plane != NULL && cq_table_add_peer(&plane->shared.tables, &handle) == CQ_OK);
    for (size_t i = 0; i < sizeof secrets; i++)
        secrets[i] = (uint8_t)(i * 7);
    struct cq_epoch_params p = {.rx_index = INDEX,
                                .tx_index = INDEX,
                                .suite = CQ_SUITE_AES_256_GCM,
                                .tx_lanes = 2,
                                .rx_lanes = 2,
                                .tx_secrets = secrets,
                                .rx_secrets = secrets,
                                .expires_ns = UINT64_MAX,
                                .limits = cq_epoch_default_limits()};
    struct cq_epoch *epoch = cq_epoch_new(&p, NULL);
    REQUIRE(epoch != NULL && cq_table_install(&plane->shared.tables, handle, epoch) == CQ_OK);
    REQUIRE(cq_table_activate(&plane->shared.tables, INDEX) == CQ_OK &&
            cq_table_promote(&plane->shared.tables, INDEX) == CQ_OK);
    struct cq_endpoint to = {.remote = {.port = 1, .family = 4}, .source = CQ_SOURCE_PINNED};
    cq_endpoint_write(&cq_table_peer(&plane->shared.tables, handle)->endpoint, &to);
    const struct cq_route_entry any[] = {{.family = 4}, {.family = 6}};
    const struct cq_route_entry own[] = {{.family = 4, .prefix = 8, .addr = {10}},
                                         {.family = 6, .prefix = 8, .addr = {0xfd}},
                                         {.family = 4, .prefix = 8, .addr = {11}, .value = OTHER_PEER}};
    REQUIRE(cq_table_add_peer(&plane->shared.tables, &handle) == CQ_OK && handle == OTHER_PEER);
    REQUIRE(cq_table_set_routes(&plane->shared.tables, receiving ? own : any, receiving ? 3 : 2) == CQ_OK);
    return plane;
}

static struct rig *rig_for(unsigned options)
{
    struct rig *r = &rigs[options % RIGS];
    if (r->sending == NULL) {
        r->sending = plane_new(options, false);
        r->receiving = plane_new(options, true);
        r->peer = cq_table_peer(&r->receiving->shared.tables, 0);
        r->epoch = cq_table_find(atomic_load(&r->sending->shared.tables.current), INDEX)->epoch;
        r->vnet = options & 1;
        r->receiving->rx[0]->now_ns = 1;
        r->receiving->rx[0]->worker.table = cq_table_acquire(&r->receiving->shared.tables, 1);
    }
    return r;
}

/* ---- one input ---- */

/* The burst that the TUN has; drain: and all that waits for room in the socket. */
static void send_all(bool drain)
{
    struct cq_tx *tx = rig->sending->tx[0];
    struct cq_peer *peer = cq_table_peer(&rig->sending->shared.tables, 0);
    uint64_t before = atomic_load(&peer->tx_packets);
    ssize_t n;
    while ((n = cq_io_tun_read(tx->tun, rig->vnet, &tx->vnet, tx->packet, TUN_READ_MAX)) > 0)
        burst(tx, n, false);
    if (drain)
        for (unsigned tries = 0; tx->runs.waiting; tries++) {
            HOLDS(tries < 0x10000); /* what waits leaves, as soon as the socket has room */
            burst(tx, 0, false);
        }
    world.sent += atomic_load(&peer->tx_packets) - before;
    world.tun_left = 0;
    for (unsigned i = 0; i < CQ_RUNS; i++)
        HOLDS(tx->runs.runs[i].slot == NULL && tx->runs.runs[i].open_packets == 0 &&
              (tx->runs.runs[i].full || tx->runs.runs[i].ready.count == 0) &&
              (tx->runs.waiting || !cq_run_waits(&tx->runs.runs[i])));
    HOLDS(tx->runs.waiting || tx->runs.pool.bytes == 0);
}

static void step(uint8_t control, const uint8_t *p, size_t n)
{
    switch (control & 3) {
    case 0:
        if (n <= CQ_VNET_SIZE) /* the device gives a packet, or nothing */
            break;
        world.tun = p - 3;
        world.tun_left = 3 + n;
        send_all(false);
        break;
    case 1:
        if (n > 2)
            arrive(p + 2, n - 2, cq_get16(p));
        break;
    case 2:
        if (n <= CQ_DATAGRAM_MAX - CQ_OVERHEAD)
            hostile_record(p, n, control & 4);
        break;
    default:
        if (n >= 2) {
            world.refusals = p[0];
            world.refusal = p[1] == 0 ? EIO : p[1] == 1 ? EAGAIN : p[1];
        }
    }
    if (control & 0x80)
        deliver_pending();
}

/* Steps that are reads of the TUN and follow each other are one burst, unless they end with a flush. */
static size_t reads_from(const uint8_t *data, size_t size)
{
    size_t at = 0;
    while (at + 3 <= size && (data[at] & 0x83) == 0) {
        size_t n = cq_get16(data + at + 1);
        if (n <= CQ_VNET_SIZE || n > size - at - 3)
            break;
        at += 3 + n;
    }
    return at;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    rig = rig_for(data[0]);
    memset(&world, 0, sizeof world);
    world.refuses_super = data[0] & 16;
    atomic_store(&rig->sending->shared.segment_refused[0], false);
    atomic_store(&rig->receiving->shared.merge_refused, 0);
    atomic_store(&cq_table_peer(&rig->sending->shared.tables, 0)->segment_off_until_ns, 0);
    atomic_store(&cq_table_peer(&rig->sending->shared.tables, 0)->mtu, data[0] & 32 ? 600 : CQ_MTU_MAX);
    memset(rig->sending->tx[0]->answers.full_ns, 0, sizeof rig->sending->tx[0]->answers.full_ns);
    uint64_t packets = atomic_load(&rig->peer->rx_packets);
    uint64_t source = cq_plane_drop_count(rig->receiving, CQ_DROP_RX_SOURCE);
    uint64_t malformed = cq_plane_drop_count(rig->receiving, CQ_DROP_RX_MALFORMED);
    for (size_t at = 1; at + 3 <= size;) {
        size_t burst_size = reads_from(data + at, size - at);
        if (burst_size > 0) {
            world.tun = data + at;
            world.tun_left = burst_size;
            send_all(false);
            at += burst_size;
            continue;
        }
        uint8_t control = data[at];
        size_t n = cq_get16(data + at + 1);
        n = n < size - at - 3 ? n : size - at - 3;
        if ((control & 3) != 0 || n == cq_get16(data + at + 1))
            step(control, data + at + 3, n);
        at += 3 + n;
    }
    send_all(true);
    deliver_pending();
    packets = atomic_load(&rig->peer->rx_packets) - packets;
    source = cq_plane_drop_count(rig->receiving, CQ_DROP_RX_SOURCE) - source;
    HOLDS(packets == world.written && packets + source == world.sent);
    HOLDS(world.refuses_super || atomic_load(&rig->receiving->shared.merge_refused) == 0);
    HOLDS(cq_plane_drop_count(rig->receiving, CQ_DROP_RX_MALFORMED) - malformed == world.malformed);
    return 0;
}

#ifndef CQ_LIBFUZZER

static void mutate(uint8_t *p, size_t n, uint32_t changes)
{
    static const uint8_t edges[] = {0, 1, 0x7f, 0x80, 0xff, 0x40, 0x60, 0x45};
    while (changes-- > 0)
        p[draw(n < 80 || draw(8) == 0 ? (uint32_t)n : 80)] = draw(2) ? edges[draw(sizeof edges)] : (uint8_t)draw(256);
}

/* The next packet of one of a few flows, some from sources that are not the peer's. */
static size_t next_packet(uint8_t *p, struct spec *flows, size_t payload_max, uint16_t *gso_size)
{
    struct spec *s = &flows[draw(4)];
    s->payload = draw(3) == 0 ? draw(100) : draw((uint32_t)payload_max);
    *gso_size = s->payload > 1000 ? (uint16_t)(500 + draw(860)) : 0;
    size_t n = build(p, s);
    s->sequence += (uint32_t)s->payload;
    s->id++;
    if (draw(16) == 0)
        p[s->version == 4 ? 12 : 8]++;
    return n;
}

static size_t append(uint8_t *out, struct spec *flows)
{
    uint8_t *p = out + 3;
    uint16_t gso_size;
    size_t n = 0;
    switch (draw(8)) {
    case 0: /* a hostile record */
        out[0] = (uint8_t)(2 | (draw(2) ? 4 : 0));
        for (uint32_t packets = draw(12); packets > 0; packets--)
            n += next_packet(p + n, flows, 600, &gso_size);
        memset(p + n, 0, 40);
        n += draw(40);
        break;
    case 1: /* no record at all, or a refusal */
        out[0] = draw(4) == 0 ? 3 : 1;
        n = 2 + draw(3000);
        check_random_bytes(p, n);
        if (out[0] == 3) {
            static const uint8_t errors[] = {EIO, EMSGSIZE, EINVAL, ENETUNREACH, EPERM, EAGAIN, EAGAIN};
            p[0] = (uint8_t)(1 + draw(4));
            p[1] = errors[draw(sizeof errors)];
            break;
        }
        cq_put16(p, (uint16_t)(32 + draw(200)));
        const struct cq_header h = {.type = CQ_RECORD_TYPE,
                                    .lane = (uint8_t)draw(4),
                                    .flags = (uint16_t)draw(3),
                                    .index = INDEX + draw(2),
                                    .counter = draw(1 << 30)};
        cq_wire_write_header(p + 2, &h);
        break;
    default: /* the TUN */
        out[0] = 0;
        n = CQ_VNET_SIZE + next_packet(p + CQ_VNET_SIZE, flows, draw(3) ? 1300 : 20000, &gso_size);
        struct cq_vnet v = vnet_of(p + CQ_VNET_SIZE, gso_size);
        if (draw(4) == 0 && gso_size == 0)
            v = (struct cq_vnet){0};
        memcpy(p, &v, sizeof v);
    }
    if (draw(4) == 0)
        mutate(p, n == 0 ? 1 : n, 1 + draw(3));
    out[0] |= draw(16) == 0 ? 0x80 : 0;
    cq_put16(out + 1, (uint16_t)n);
    return 3 + n;
}

static size_t make_input(uint8_t *out)
{
    struct spec flows[4] = {spec_of(4, TCP, 0), spec_of(6, TCP, 0), spec_of(4, UDP, 0), spec_of(6, UDP, 0)};
    size_t n = 1;
    out[0] = (uint8_t)draw(256);
    for (uint32_t steps = 1 + draw(40); steps > 0; steps--)
        n += append(out + n, flows);
    return n;
}

#endif
