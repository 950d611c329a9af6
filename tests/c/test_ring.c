/*
 * The ring of QUIC datagrams: what goes in comes out, whole and in order, or is refused; also when its indices wrap
 * around, and with the two sides in two threads.
 */
#include "check.h"
#include "cq_ring.h"

#include <pthread.h>

enum { PASSES = 40000 };

static struct cq_ring ring;
static uint8_t data[CQ_RING_DATAGRAM + 1];

/* Datagram number i: its length, its bytes and its sender follow from the number. */
static size_t length_of(uint32_t i) { return i * 97 % (CQ_RING_DATAGRAM + 1); }

static struct cq_endpoint sender_of(uint32_t i)
{
    return (struct cq_endpoint){.remote = {.host = {[15] = (uint8_t)i}, .port = (uint16_t)i, .family = 6}};
}

static bool push(uint32_t i)
{
    const struct cq_endpoint from = sender_of(i);
    uint8_t bytes[CQ_RING_DATAGRAM];
    memset(bytes, (int)(i % 251), sizeof bytes);
    return cq_ring_push(&ring, &from, bytes, length_of(i));
}

static bool is_number(const struct cq_ring_entry *e, uint32_t i)
{
    const struct cq_endpoint from = sender_of(i);
    bool good = e->length == length_of(i) && memcmp(&e->from, &from, sizeof from) == 0;
    for (uint32_t at = 0; good && at < e->length; at++)
        good = e->data[at] == i % 251;
    return good;
}

static void start_at(uint32_t index)
{
    memset(&ring, 0, sizeof ring);
    REQUIRE(cq_ring_init(&ring));
    atomic_store(&ring.head, index);
    atomic_store(&ring.tail, index);
}

static void test_full_ring_refuses_and_loses_nothing(void)
{
    static const uint32_t starts[] = {0, CQ_RING_ENTRIES - 3, UINT32_MAX - 5};
    for (unsigned s = 0; s < sizeof starts / sizeof *starts; s++) {
        start_at(starts[s]);
        CHECK(cq_ring_peek(&ring) == NULL);
        uint32_t in = 0, out = 0;
        for (unsigned round = 0; round < 4; round++) {
            while (push(in))
                in++;
            CHECK_EQUAL(in - out, CQ_RING_ENTRIES);
            for (unsigned i = 0; i < 100 + round; i++) {
                const struct cq_ring_entry *e = cq_ring_peek(&ring);
                REQUIRE(e != NULL && e == cq_ring_peek(&ring));
                CHECK(is_number(e, out++));
                cq_ring_pop(&ring);
            }
        }
        for (const struct cq_ring_entry *e; (e = cq_ring_peek(&ring)) != NULL; cq_ring_pop(&ring))
            CHECK(is_number(e, out++));
        CHECK_EQUAL(in, out);
        cq_ring_free(&ring);
    }
}

static void test_datagram_that_is_too_long_is_refused(void)
{
    const struct cq_endpoint from = sender_of(1);
    start_at(0);
    CHECK(!cq_ring_push(&ring, &from, data, CQ_RING_DATAGRAM + 1));
    CHECK(cq_ring_peek(&ring) == NULL);
    CHECK(cq_ring_push(&ring, &from, data, CQ_RING_DATAGRAM));
    CHECK_EQUAL(cq_ring_peek(&ring)->length, CQ_RING_DATAGRAM);
    cq_ring_free(&ring);
}

static void *produce(void *arg)
{
    (void)arg;
    for (uint32_t i = 0; i < PASSES;)
        i += push(i);
    return NULL;
}

static void test_two_threads(void)
{
    pthread_t producer;
    start_at(UINT32_MAX - PASSES / 2);
    REQUIRE(pthread_create(&producer, NULL, produce, NULL) == 0);
    for (uint32_t i = 0; i < PASSES;) {
        const struct cq_ring_entry *e = cq_ring_peek(&ring);
        if (e == NULL)
            continue;
        CHECK(is_number(e, i++));
        cq_ring_pop(&ring);
    }
    REQUIRE(pthread_join(producer, NULL) == 0);
    CHECK(cq_ring_peek(&ring) == NULL);
    cq_ring_free(&ring);
}

int main(void)
{
    RUN(test_full_ring_refuses_and_loses_nothing);
    RUN(test_datagram_that_is_too_long_is_refused);
    RUN(test_two_threads);
    return check_done();
}
