/*
 * Sending a batch against a kernel that refuses it: what is tried next, what is remembered, and that nothing is lost
 * or sent twice. The kernel and the clock are this file's (it is linked without cq_io.c).
 */
#include <errno.h>
#include <sys/socket.h>

#include "check.h"
#include "cq_send.h"

#define SECOND ((uint64_t)1000000000)
#define RECORDS 10u
#define SIZE 100u
#define TAIL 40u /* the last record is shorter */

/* What the kernel has against us. */
static struct {
    int source;          /* errno for a pinned source */
    int segment;         /* errno for UDP_SEGMENT */
    int record[RECORDS]; /* errno for a single record */
    int shortage;        /* errno while there is no room */
    size_t link;         /* the largest datagram that leaves whole; 0: any */
    uint64_t room_at_ns;
    const struct cq_endpoint *moves; /* where the peer moves to while a send is refused */
} kernel;

static uint64_t clock_ns;
static unsigned calls, waits, batches, sent;
static uint8_t sent_records[4 * RECORDS];
static struct cq_peer peers[2];

/* ---- the stand-in for cq_io.c ---- */

uint64_t cq_io_now_ns(void) { return clock_ns; }

void cq_io_pause(int ms)
{
    waits++;
    clock_ns += (uint64_t)ms * 1000000;
}

static int refusal(const struct cq_endpoint *to)
{
    if (kernel.source != 0 && to->source == CQ_SOURCE_PINNED) {
        if (kernel.moves != NULL)
            cq_endpoint_write(&peers[0].endpoint, kernel.moves);
        return kernel.source;
    }
    return clock_ns < kernel.room_at_ns ? kernel.shortage : 0;
}

static bool is_whole; /* the socket's datagrams are not fragmented */
static int socket_used;
static uint8_t class_used;

void cq_io_set_whole(int fd, int version, bool whole)
{
    CHECK(fd >= 7 && version == 6 && whole != is_whole);
    is_whole = whole;
}

static bool too_large(size_t size) { return is_whole && kernel.link != 0 && size > kernel.link; }

static void take(const uint8_t *data, size_t length, size_t segment)
{
    for (size_t at = 0; at < length; at += segment)
        if (sent < sizeof sent_records)
            sent_records[sent++] = data[at];
}

int cq_io_send(int fd, int family, const struct cq_endpoint *to, uint8_t class, const uint8_t *data, size_t length,
               size_t segment)
{
    CHECK(fd >= 7 && family == AF_INET && segment < length);
    socket_used = fd;
    class_used = class;
    calls++;
    int error = refusal(to);
    if (error == 0)
        error = too_large(segment) ? EMSGSIZE : kernel.segment;
    if (error == 0) {
        take(data, length, segment);
        batches++;
    }
    return -error;
}

unsigned cq_io_send_each(int fd, int family, const struct cq_endpoint *to, uint8_t class, const uint8_t *data,
                         size_t length, size_t segment, int *error)
{
    unsigned n = 0;
    CHECK(fd >= 7 && family == AF_INET);
    socket_used = fd;
    class_used = class;
    calls++;
    *error = refusal(to);
    for (size_t at = 0; *error == 0 && at < length; at += segment) {
        *error = too_large(length - at < segment ? length - at : segment) ? EMSGSIZE : kernel.record[data[at]];
        if (*error != 0)
            break;
        take(data + at, 1, 1);
        n++;
    }
    return n;
}

/* ---- one sender, one batch ---- */

static _Atomic bool refused[2], stopping; /* the first by group */
static struct cq_sender sender;
static struct cq_send_socket sockets[2]; /* by group */
static const struct cq_endpoint pinned = {
    .remote = {.host = {[15] = 1}, .port = 9, .family = 6}, .local = {[15] = 2}, .source = CQ_SOURCE_PINNED};

static void reset(void)
{
    memset(&kernel, 0, sizeof kernel);
    is_whole = false;
    clock_ns = 1000 * SECOND;
    calls = waits = batches = sent = 0;
    refused[0] = refused[1] = stopping = false;
    sender = (struct cq_sender){.segment = true, .stopping = &stopping};
    for (int g = 0; g < 2; g++)
        sockets[g] = (struct cq_send_socket){.fd = 7 + g, .family = AF_INET, .segment_refused = &refused[g]};
    for (unsigned i = 0; i < 2; i++) {
        peers[i].segment_off_until_ns = 0;
        peers[i].path.whole_max = 0;
        cq_endpoint_write(&peers[i].endpoint, &pinned);
    }
    cq_send_begin(&sender, clock_ns);
}

#define CLASS 0xb9u

static struct cq_lost send_as(struct cq_peer *peer, bool probe)
{
    static uint8_t wire[(RECORDS - 1) * SIZE + TAIL];
    static struct cq_load loads[RECORDS];
    for (unsigned i = 0; i < RECORDS; i++) {
        memset(wire + i * SIZE, (int)i, i == RECORDS - 1 ? TAIL : SIZE);
        loads[i] = (struct cq_load){1u << i, 1000 + i};
    }
    calls = waits = batches = sent = 0;
    class_used = 0;
    const struct cq_batch batch = {wire, sizeof wire, SIZE, loads, probe, CLASS};
    struct cq_endpoint to;
    cq_endpoint_read(&peer->endpoint, &to);
    struct cq_lost lost = cq_send_batch(&sender, &sockets[to.group], peer, &batch);
    CHECK_EQUAL(class_used, CLASS); /* however it left */
    return lost;
}

static struct cq_lost send_to(struct cq_peer *peer) { return send_as(peer, false); }

/* Every record left, once, in order, in so many calls. */
static void check_all_left(struct cq_lost lost, unsigned in_batches)
{
    CHECK_EQUAL(lost.records, 0);
    CHECK_EQUAL(lost.packets, 0);
    CHECK_EQUAL(lost.waiting, 0);
    CHECK_EQUAL(sent, RECORDS);
    CHECK_EQUAL(batches, in_batches);
    for (unsigned i = 0; i < RECORDS; i++)
        CHECK_EQUAL(sent_records[i], i);
}

static struct cq_endpoint endpoint_of(struct cq_peer *peer)
{
    struct cq_endpoint e;
    cq_endpoint_read(&peer->endpoint, &e);
    return e;
}

/* ---- UDP_SEGMENT ---- */

static void test_batch_leaves_in_one_send(void)
{
    reset();
    check_all_left(send_to(&peers[0]), 1);
    CHECK_EQUAL(calls, 1);
    sender.segment = false;
    check_all_left(send_to(&peers[0]), 0);
    CHECK_EQUAL(calls, 1);
}

static void test_eio_turns_segmentation_off_for_all(void)
{
    reset();
    kernel.segment = EIO;
    check_all_left(send_to(&peers[0]), 0);
    CHECK_EQUAL(calls, 2);
    CHECK(refused[0]);
    kernel.segment = 0;
    clock_ns += 24 * 3600 * SECOND;
    cq_send_begin(&sender, clock_ns);
    check_all_left(send_to(&peers[1]), 0);
    CHECK_EQUAL(calls, 1);
}

static void test_batch_leaves_by_the_group_that_its_peer_is_heard_by(void)
{
    reset();
    struct cq_endpoint there = pinned;
    there.group = 1;
    cq_endpoint_write(&peers[1].endpoint, &there);
    check_all_left(send_to(&peers[0]), 1);
    CHECK_EQUAL(socket_used, 7);
    check_all_left(send_to(&peers[1]), 1);
    CHECK_EQUAL(socket_used, 8);

    kernel.segment = EIO; /* from here on no path of the second group takes batches, which says nothing of the first */
    check_all_left(send_to(&peers[1]), 0);
    CHECK(refused[1] && !refused[0]);
    kernel.segment = 0;
    check_all_left(send_to(&peers[1]), 0);
    check_all_left(send_to(&peers[0]), 1);

    peers[1].path.whole_max = SIZE; /* the sockets do not share options, either */
    check_all_left(send_to(&peers[1]), 0);
    CHECK(sockets[1].whole6 && !sockets[0].whole6 && !sockets[1].whole4);
}

static void check_remembered_for_ten_minutes(int error)
{
    reset();
    kernel.segment = error;
    check_all_left(send_to(&peers[0]), 0);
    CHECK(!refused[0]);
    kernel.segment = 0;
    check_all_left(send_to(&peers[1]), 1); /* the others' paths are good */
    clock_ns += 599 * SECOND;
    cq_send_begin(&sender, clock_ns);
    check_all_left(send_to(&peers[0]), 0);
    CHECK_EQUAL(calls, 1);
    clock_ns += SECOND;
    cq_send_begin(&sender, clock_ns);
    check_all_left(send_to(&peers[0]), 1);
    CHECK_EQUAL(endpoint_of(&peers[0]).source, CQ_SOURCE_PINNED); /* it was not the source */
}

static void test_emsgsize_is_remembered_per_peer(void) { check_remembered_for_ten_minutes(EMSGSIZE); }

static void test_einval_of_a_good_source_is_about_segmentation(void) { check_remembered_for_ten_minutes(EINVAL); }

/* ---- the source ---- */

static void check_source_is_forgotten(int error)
{
    reset();
    kernel.source = error;
    check_all_left(send_to(&peers[0]), 1);
    struct cq_endpoint e = endpoint_of(&peers[0]);
    CHECK_EQUAL(e.source, CQ_SOURCE_FORGOTTEN);
    CHECK(memcmp(&e.remote, &pinned.remote, sizeof e.remote) == 0);
    CHECK(memcmp(e.local, pinned.local, sizeof e.local) == 0);
    CHECK_EQUAL(peers[0].segment_off_until_ns, 0); /* it was not UDP_SEGMENT */
    check_all_left(send_to(&peers[0]), 1);
    CHECK_EQUAL(calls, 1);
}

static void test_refused_source_is_forgotten(void)
{
    check_source_is_forgotten(EINVAL);
    check_source_is_forgotten(ENETUNREACH);
    check_source_is_forgotten(EADDRNOTAVAIL);
}

static void test_bad_source_and_bad_segmentation(void)
{
    reset();
    kernel.source = EINVAL;
    kernel.segment = EINVAL;
    check_all_left(send_to(&peers[0]), 0);
    CHECK_EQUAL(endpoint_of(&peers[0]).source, CQ_SOURCE_FORGOTTEN);
    CHECK_EQUAL(peers[0].segment_off_until_ns, clock_ns + 600 * SECOND);
}

static void test_peer_that_moved_meanwhile_stays_where_it_is(void)
{
    struct cq_endpoint elsewhere = pinned;
    reset();
    elsewhere.remote.port = 10;
    elsewhere.local[15] = 3;
    kernel.source = EADDRNOTAVAIL;
    kernel.moves = &elsewhere;
    check_all_left(send_to(&peers[0]), 1);
    struct cq_endpoint e = endpoint_of(&peers[0]);
    CHECK(memcmp(&e, &elsewhere, sizeof e) == 0);
}

static void check_unreachable_network(enum cq_source source, unsigned attempts)
{
    struct cq_endpoint e = pinned;
    reset();
    e.source = source;
    cq_endpoint_write(&peers[0].endpoint, &e);
    kernel.segment = ENETUNREACH;
    struct cq_lost lost = send_to(&peers[0]);
    CHECK_EQUAL(lost.records, RECORDS);
    CHECK_EQUAL(lost.packets, (1 << RECORDS) - 1);
    CHECK_EQUAL(calls, attempts);
    CHECK_EQUAL(endpoint_of(&peers[0]).source, source);
}

/* No source is at fault for what no source does better. */
static void test_unreachable_network_keeps_the_source(void)
{
    check_unreachable_network(CQ_SOURCE_KERNEL, 1);
    check_unreachable_network(CQ_SOURCE_FORGOTTEN, 1);
    check_unreachable_network(CQ_SOURCE_PINNED, 2);
}

/* ---- no room, no memory, and refusals of single records ---- */

static void check_full_socket(bool segment)
{
    reset();
    sender.segment = segment;
    kernel.shortage = EAGAIN;
    kernel.room_at_ns = UINT64_MAX;
    struct cq_lost lost = send_to(&peers[0]);
    CHECK_EQUAL(lost.waiting, RECORDS);
    CHECK_EQUAL(lost.records, 0);
    CHECK_EQUAL(calls, 1);
    CHECK_EQUAL(waits, 0);
    kernel.room_at_ns = 0;
    check_all_left(send_to(&peers[0]), segment);
}

static void test_full_socket_is_not_waited_for(void)
{
    check_full_socket(true);
    check_full_socket(false);
}

static void test_what_has_left_before_the_socket_is_full_does_not_wait(void)
{
    reset();
    sender.segment = false;
    kernel.record[4] = EAGAIN;
    struct cq_lost lost = send_to(&peers[0]);
    CHECK_EQUAL(sent, 4);
    CHECK_EQUAL(lost.waiting, RECORDS - 4);
    CHECK_EQUAL(lost.records, 0);
    CHECK_EQUAL(waits, 0);
}

static void check_waits_for_memory(int error)
{
    reset();
    kernel.shortage = error;
    kernel.room_at_ns = clock_ns + SECOND / 2;
    check_all_left(send_to(&peers[0]), 1);
    CHECK(waits > 0);
    CHECK(clock_ns - 1000 * SECOND <= SECOND / 2 + 20 * 1000000);
    CHECK_EQUAL(sender.now_ns, clock_ns);
}

static void test_memory_is_waited_for(void)
{
    check_waits_for_memory(ENOBUFS);
    check_waits_for_memory(ENOMEM);
}

static void check_patience(bool segment)
{
    reset();
    sender.segment = segment;
    kernel.shortage = ENOBUFS;
    kernel.room_at_ns = UINT64_MAX;
    struct cq_lost lost = send_to(&peers[0]);
    CHECK_EQUAL(lost.records, RECORDS);
    CHECK_EQUAL(lost.bytes, RECORDS * 1000 + 45);
    CHECK_EQUAL(clock_ns, 1001 * SECOND);
    lost = send_to(&peers[1]); /* of the same burst: it has waited enough */
    CHECK_EQUAL(lost.records, RECORDS);
    CHECK_EQUAL(calls, 1);
    CHECK_EQUAL(clock_ns, 1001 * SECOND);
    cq_send_begin(&sender, clock_ns);
    (void)send_to(&peers[0]);
    CHECK_EQUAL(clock_ns, 1002 * SECOND);
}

static void test_burst_waits_a_second_at_most(void)
{
    check_patience(true);
    check_patience(false);
}

static void test_stop_ends_the_wait(void)
{
    reset();
    kernel.shortage = ENOBUFS;
    kernel.room_at_ns = UINT64_MAX;
    stopping = true;
    CHECK_EQUAL(send_to(&peers[0]).records, RECORDS);
    CHECK_EQUAL(waits, 0);
}

static void test_refused_record_does_not_stop_the_others(void)
{
    reset();
    sender.segment = false;
    kernel.record[0] = kernel.record[4] = kernel.record[RECORDS - 1] = EPERM;
    struct cq_lost lost = send_to(&peers[0]);
    CHECK_EQUAL(lost.records, 3);
    CHECK_EQUAL(lost.packets, 1 + 16 + 512);
    CHECK_EQUAL(lost.bytes, 3000 + 0 + 4 + 9);
    CHECK_EQUAL(sent, RECORDS - 3);
}

static void test_refusal_of_a_batch_is_of_all_of_it(void)
{
    reset();
    kernel.segment = EPERM; /* a filter dropped the packet */
    CHECK_EQUAL(send_to(&peers[0]).records, RECORDS);
    CHECK_EQUAL(calls, 1);
    CHECK_EQUAL(sent, 0);
}

/* ---- fragments ---- */

static void test_what_the_path_carries_leaves_whole_and_more_does_not(void)
{
    reset();
    peers[0].path.whole_max = SIZE;
    peers[1].path.whole_max = SIZE - 1;
    check_all_left(send_to(&peers[0]), 1);
    CHECK(is_whole);
    check_all_left(send_to(&peers[1]), 1);
    CHECK(!is_whole);
    check_all_left(send_to(&peers[0]), 1);
    CHECK(is_whole);
}

static void test_records_too_large_for_the_link_leave_in_fragments(void)
{
    reset();
    peers[0].path.whole_max = SIZE;
    kernel.link = SIZE - 1;
    struct cq_lost lost = send_to(&peers[0]);
    check_all_left(lost, 1);
    CHECK(lost.refused && !is_whole);
    kernel.link = SIZE;
    lost = send_to(&peers[0]);
    check_all_left(lost, 1);
    CHECK(!lost.refused && is_whole);
}

static void test_probe_leaves_whole_or_not_at_all(void)
{
    reset();
    check_all_left(send_as(&peers[0], true), 1);
    CHECK(is_whole);
    sender.segment = false;
    kernel.link = SIZE - 1;
    struct cq_lost lost = send_as(&peers[0], true);
    CHECK_EQUAL(lost.records, RECORDS - 1); /* the last one is small */
    CHECK(is_whole && !lost.refused);
}

int main(void)
{
    for (unsigned i = 0; i < 2; i++)
        REQUIRE(pthread_mutex_init(&peers[i].endpoint.writer, NULL) == 0);
    RUN(test_batch_leaves_in_one_send);
    RUN(test_eio_turns_segmentation_off_for_all);
    RUN(test_batch_leaves_by_the_group_that_its_peer_is_heard_by);
    RUN(test_emsgsize_is_remembered_per_peer);
    RUN(test_einval_of_a_good_source_is_about_segmentation);
    RUN(test_refused_source_is_forgotten);
    RUN(test_bad_source_and_bad_segmentation);
    RUN(test_peer_that_moved_meanwhile_stays_where_it_is);
    RUN(test_unreachable_network_keeps_the_source);
    RUN(test_full_socket_is_not_waited_for);
    RUN(test_what_has_left_before_the_socket_is_full_does_not_wait);
    RUN(test_memory_is_waited_for);
    RUN(test_burst_waits_a_second_at_most);
    RUN(test_stop_ends_the_wait);
    RUN(test_refused_record_does_not_stop_the_others);
    RUN(test_refusal_of_a_batch_is_of_all_of_it);
    RUN(test_what_the_path_carries_leaves_whole_and_more_does_not);
    RUN(test_records_too_large_for_the_link_leave_in_fragments);
    RUN(test_probe_leaves_whole_or_not_at_all);
    return check_done();
}
