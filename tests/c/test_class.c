/*
 * The ECN field of a packet and that of the record around it: the whole table of RFC 6040 (figure 4), over both versions
 * of IP, with nothing else changed and the checksum as right or as wrong as it was.
 */
#include <string.h>

#include "check.h"
#include "cq_checksum.h"
#include "cq_class.h"

#define HEADER 40u

static const enum cq_ecn fields[] = {CQ_ECN_NOT_ECT, CQ_ECN_ECT0, CQ_ECN_ECT1, CQ_ECN_CE};

#define DROP (-1)

/* Rows: inside. Columns: outside. In the order of `fields`, which is the RFC's. */
static const int combined[4][4] = {
    {CQ_ECN_NOT_ECT, CQ_ECN_NOT_ECT, CQ_ECN_NOT_ECT, DROP},
    {CQ_ECN_ECT0, CQ_ECN_ECT0, CQ_ECN_ECT1, CQ_ECN_CE},
    {CQ_ECN_ECT1, CQ_ECN_ECT1, CQ_ECN_ECT1, CQ_ECN_CE},
    {CQ_ECN_CE, CQ_ECN_CE, CQ_ECN_CE, CQ_ECN_CE},
};

static uint16_t header_sum(const uint8_t *p) { return cq_checksum_fold(cq_checksum_add(p, 20, 0)); }

/* A header of random bytes with this class; an IPv4 checksum that is right. */
static void make(uint8_t p[HEADER], unsigned version, uint8_t class)
{
    check_random_bytes(p, HEADER);
    if (version == 4) {
        p[0] = 0x45;
        p[1] = class;
        cq_put16(p + 10, 0);
        cq_put16(p + 10, (uint16_t)~header_sum(p));
    } else {
        p[0] = (uint8_t)(0x60 | class >> 4);
        p[1] = (uint8_t)((p[1] & 0x0f) | class << 4);
    }
}

/* Whether two headers differ in nothing but the ECN field and, in IPv4, the checksum. */
static bool same_but_ecn(const uint8_t *a, const uint8_t *b, unsigned version)
{
    uint8_t x[HEADER], y[HEADER];
    memcpy(x, a, HEADER);
    memcpy(y, b, HEADER);
    for (unsigned i = 0; i < 2; i++) {
        uint8_t *p = i == 0 ? x : y;
        p[1] &= (uint8_t)(version == 4 ? ~3u : ~0x30u);
        if (version == 4)
            cq_put16(p + 10, 0);
    }
    return memcmp(x, y, HEADER) == 0;
}

static void test_class_is_read_from_where_the_version_has_it(void)
{
    for (unsigned class = 0; class < 256; class++) {
        uint8_t p[HEADER];
        for (unsigned version = 4; version <= 6; version += 2) {
            make(p, version, (uint8_t)class);
            CHECK_EQUAL(cq_class_of(p), class);
            CHECK_EQUAL(cq_ecn_of(p), class & 3);
        }
    }
}

static void test_both_fields_give_what_the_rfc_says(void)
{
    for (unsigned version = 4; version <= 6; version += 2)
        for (unsigned i = 0; i < 4; i++)
            for (unsigned o = 0; o < 4; o++)
                for (unsigned dscp = 0; dscp < 64; dscp++) {
                    const int wanted = combined[i][o];
                    uint8_t p[HEADER], before[HEADER];
                    make(p, version, (uint8_t)(dscp << 2 | fields[i]));
                    memcpy(before, p, HEADER);
                    const enum cq_decapsulated made = cq_ecn_decapsulate(p, fields[o]);
                    CHECK_EQUAL(made == CQ_UNMARKABLE, wanted == DROP);
                    CHECK_EQUAL(made == CQ_MARKED, wanted == CQ_ECN_CE && fields[i] != CQ_ECN_CE);
                    CHECK_EQUAL(cq_ecn_of(p), wanted == DROP ? CQ_ECN_NOT_ECT : wanted);
                    CHECK(same_but_ecn(p, before, version));
                    CHECK(version == 6 || header_sum(p) == 0xffff);
                    CHECK((wanted != DROP && wanted != (int)fields[i]) || memcmp(p, before, HEADER) == 0);
                }
}

static void test_wrong_checksum_stays_as_wrong(void)
{
    for (unsigned n = 0; n < 1000; n++) {
        uint8_t p[HEADER];
        make(p, 4, (uint8_t)(check_random() << 2 | CQ_ECN_ECT0));
        p[10 + n % 2] ^= (uint8_t)(1 + check_random() % 255);
        const uint16_t sum = header_sum(p);
        CHECK_EQUAL(cq_ecn_decapsulate(p, CQ_ECN_CE), CQ_MARKED);
        CHECK_EQUAL(header_sum(p), sum);
    }
}

static void test_mark_is_for_whoever_understands_it(void)
{
    for (unsigned version = 4; version <= 6; version += 2)
        for (unsigned i = 0; i < 4; i++) {
            uint8_t p[HEADER], before[HEADER];
            make(p, version, (uint8_t)(0xb8 | fields[i]));
            memcpy(before, p, HEADER);
            CHECK_EQUAL(cq_ecn_mark(p), fields[i] != CQ_ECN_NOT_ECT);
            CHECK_EQUAL(cq_class_of(p), 0xb8 | (fields[i] != CQ_ECN_NOT_ECT ? CQ_ECN_CE : CQ_ECN_NOT_ECT));
            CHECK(same_but_ecn(p, before, version));
            CHECK(version == 6 || header_sum(p) == 0xffff);
        }
}

int main(void)
{
    RUN(test_class_is_read_from_where_the_version_has_it);
    RUN(test_both_fields_give_what_the_rfc_says);
    RUN(test_wrong_checksum_stays_as_wrong);
    RUN(test_mark_is_for_whoever_understands_it);
    return check_done();
}
