/*
 * The replay window against a plain list of what was accepted.
 */
#include "check.h"
#include "cq_replay.h"

/* ---- the naive window: every accepted counter, and the highest ---- */

enum { SEEN_MAX = 1 << 17 };

static uint64_t seen[SEEN_MAX];
static unsigned seen_count;
static uint64_t highest;

static int naive_fresh(uint64_t counter)
{
    if (counter == UINT64_MAX)
        return 0;
    if (seen_count != 0 && counter <= highest && highest - counter >= CQ_REPLAY_WINDOW)
        return 0;
    for (unsigned i = seen_count; i-- > 0;)
        if (seen[i] == counter)
            return 0;
    return 1;
}

static void naive_add(uint64_t counter)
{
    highest = seen_count == 0 || counter > highest ? counter : highest;
    seen[seen_count++] = counter;
}

static void naive_reset(void) { seen_count = 0, highest = 0; }

static void step(struct cq_replay *w, uint64_t counter)
{
    int wanted = naive_fresh(counter) ? CQ_OK : CQ_E_REPLAY;
    struct cq_replay before = *w;

    CHECK_EQUAL(cq_replay_check(w, counter), wanted);
    CHECK(memcmp(&before, w, sizeof before) == 0);
    CHECK_EQUAL(cq_replay_advance(w, counter), wanted);
    if (wanted == CQ_OK)
        naive_add(counter);
    else
        CHECK(memcmp(&before, w, sizeof before) == 0);
    CHECK_EQUAL(w->next, seen_count != 0 ? highest + 1 : 0);
}

/* ---- tests ---- */

static void test_random_walk_agrees_with_list(void)
{
    static const uint64_t starts[] = {0, 63, 64, 1u << 28, ((uint64_t)1 << 32) - 100, UINT64_MAX - 40000};
    static const uint64_t reaches[] = {3, 70, 1000, CQ_REPLAY_WINDOW + 200, 3 * CQ_REPLAY_WORDS * 64};

    for (unsigned s = 0; s < sizeof starts / sizeof *starts; s++) {
        for (unsigned r = 0; r < sizeof reaches / sizeof *reaches; r++) {
            struct cq_replay w;
            uint64_t top = starts[s];

            cq_replay_init(&w);
            naive_reset();
            for (unsigned i = 0; i < 1500; i++) {
                uint64_t back = check_random() % reaches[r], ahead = check_random() % (reaches[r] / 8 + 2);
                uint64_t counter = check_random() % 3 != 0 ? (back > top ? 0 : top - back)
                                                           : (ahead > UINT64_MAX - top ? UINT64_MAX : top + ahead);
                step(&w, counter);
                top = counter > top ? counter : top;
            }
        }
    }
}

static void test_whole_window_is_open_and_closes_behind_it(void)
{
    static const uint64_t tops[] = {CQ_REPLAY_WINDOW - 1, CQ_REPLAY_WINDOW, 100000, 100031, 100032, 1u << 28};

    for (unsigned t = 0; t < sizeof tops / sizeof *tops; t++) {
        struct cq_replay w;
        uint64_t oldest = tops[t] + 1 - CQ_REPLAY_WINDOW;

        cq_replay_init(&w);
        CHECK_EQUAL(cq_replay_advance(&w, tops[t]), CQ_OK);
        if (oldest != 0)
            CHECK_EQUAL(cq_replay_check(&w, oldest - 1), CQ_E_REPLAY);
        for (uint64_t c = oldest; c < tops[t]; c++)
            CHECK_EQUAL(cq_replay_advance(&w, c), CQ_OK);
        for (uint64_t c = oldest; c <= tops[t]; c++)
            CHECK_EQUAL(cq_replay_advance(&w, c), CQ_E_REPLAY);
    }
}

static void test_every_jump_forgets_the_turn_before(void)
{
    /* All bits of the ring are set, then the window jumps: what it covers anew must be open. */
    for (uint64_t jump = 1; jump <= (CQ_REPLAY_WORDS + 2) * 64; jump += 61) {
        struct cq_replay w;
        const uint64_t top = 5 * CQ_REPLAY_WORDS * 64 + 7;

        cq_replay_init(&w);
        for (uint64_t c = top - CQ_REPLAY_WORDS * 64; c <= top; c++)
            (void)cq_replay_advance(&w, c);
        CHECK_EQUAL(cq_replay_advance(&w, top + jump), CQ_OK);
        for (uint64_t c = top + jump + 1 - CQ_REPLAY_WINDOW; c < top + jump; c++)
            if (cq_replay_check(&w, c) != (c <= top ? CQ_E_REPLAY : CQ_OK))
                CHECK(!"a counter of the new window is judged by an old bit");
    }
}

static void test_the_end_of_the_counter_space(void)
{
    struct cq_replay w;

    cq_replay_init(&w);
    CHECK_EQUAL(cq_replay_check(&w, UINT64_MAX), CQ_E_REPLAY);
    CHECK_EQUAL(cq_replay_advance(&w, 0), CQ_OK);
    CHECK_EQUAL(cq_replay_advance(&w, UINT64_MAX), CQ_E_REPLAY);
    CHECK_EQUAL(w.next, 1);
    CHECK_EQUAL(cq_replay_advance(&w, UINT64_MAX - 1), CQ_OK);
    CHECK_EQUAL(w.next, UINT64_MAX);
    CHECK_EQUAL(cq_replay_advance(&w, UINT64_MAX - 1), CQ_E_REPLAY);
    CHECK_EQUAL(cq_replay_advance(&w, UINT64_MAX - 2), CQ_OK);
    CHECK_EQUAL(cq_replay_advance(&w, UINT64_MAX), CQ_E_REPLAY);
    CHECK_EQUAL(cq_replay_check(&w, 0), CQ_E_REPLAY);
}

int main(void)
{
    RUN(test_random_walk_agrees_with_list);
    RUN(test_whole_window_is_open_and_closes_behind_it);
    RUN(test_every_jump_forgets_the_turn_before);
    RUN(test_the_end_of_the_counter_space);
    return check_done();
}
