/*
 * Sets of rules against a list that is looked through: the same answer for every address and service, nested networks,
 * ranges that touch and overlap, and none at all.
 */
#include <string.h>

#include "check.h"
#include "cq_access.h"

enum { RULES_MAX = 64 };

static bool covers(const struct cq_access_rule *r, uint8_t family, const uint8_t *to)
{
    if (r->family != family)
        return false;
    for (unsigned bit = 0; bit < r->prefix; bit++)
        if (((r->addr[bit / 8] ^ to[bit / 8]) >> (7 - bit % 8) & 1) != 0)
            return false;
    return true;
}

static bool naive(const struct cq_access_rule *rules, size_t count, uint8_t family, const uint8_t *to, uint32_t service)
{
    for (size_t i = 0; i < count; i++)
        if (covers(&rules[i], family, to) && rules[i].first <= service && service <= rules[i].last)
            return true;
    return false;
}

/* Addresses of which many lie in one another's networks. */
static void random_address(uint8_t *a)
{
    memset(a, 0, 16);
    a[0] = check_random() % 4 == 0 ? 255 : 10;
    a[1] = (uint8_t)(check_random() % 3);
    a[3] = (uint8_t)(check_random() % 4);
    a[15] = (uint8_t)(check_random() % 3);
    if (check_random() % 8 == 0)
        memset(a, check_random() % 2 ? 255 : 0, 16);
}

static void random_rule(struct cq_access_rule *r)
{
    static const uint8_t lengths[] = {0, 1, 7, 8, 9, 15, 16, 24, 30, 31, 32, 64, 127, 128};
    r->family = check_random() % 2 ? 4 : 6;
    do
        r->prefix = lengths[check_random() % sizeof lengths];
    while (r->family == 4 && r->prefix > 32);
    random_address(r->addr);
    r->first = cq_access_service(check_random() % 3 * 11, (uint16_t)(check_random() % 40));
    r->last = r->first + check_random() % 6;
    if (check_random() % 10 == 0)
        r->last = CQ_ACCESS_SERVICE_MAX;
}

static void test_same_as_a_list(void)
{
    struct cq_access_rule rules[RULES_MAX];
    uint8_t to[16];
    for (unsigned round = 0; round < 3000; round++) {
        const size_t count = check_random() % RULES_MAX;
        int error;
        for (size_t i = 0; i < count; i++)
            random_rule(&rules[i]);
        struct cq_access *access = cq_access_new(rules, count, &error);
        REQUIRE(access != NULL);
        for (unsigned i = 0; i < 200; i++) {
            const uint8_t family = check_random() % 2 ? 4 : 6;
            const uint32_t service = cq_access_service(check_random() % 3 * 11, (uint16_t)(check_random() % 48));
            random_address(to);
            CHECK_EQUAL(cq_access_allows(access, family, to, service), naive(rules, count, family, to, service));
        }
        cq_access_free(access);
    }
}

static void test_no_rules_allow_nothing(void)
{
    const uint8_t to[16] = {10};
    int error;
    struct cq_access *access = cq_access_new(NULL, 0, &error);
    REQUIRE(access != NULL);
    CHECK(!cq_access_allows(access, 4, to, 0));
    CHECK(!cq_access_allows(access, 6, to, CQ_ACCESS_SERVICE_MAX));
    cq_access_free(access);
    cq_access_free(NULL);
}

static void test_what_is_out_of_range_is_refused(void)
{
    const struct cq_access_rule bad[] = {
        {.family = 5},
        {.family = 4, .prefix = 33},
        {.family = 6, .prefix = 129},
        {.family = 4, .first = 2, .last = 1},
        {.family = 4, .last = CQ_ACCESS_SERVICE_MAX + 1},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int error = CQ_OK;
        CHECK(cq_access_new(&bad[i], 1, &error) == NULL);
        CHECK_EQUAL(error, CQ_E_ARGUMENT);
    }
}

int main(void)
{
    RUN(test_same_as_a_list);
    RUN(test_no_rules_allow_nothing);
    RUN(test_what_is_out_of_range_is_refused);
    return check_done();
}
