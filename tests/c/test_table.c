/*
 * The tables that workers look things up in: what each change does, what stays alive while a worker holds it, and
 * workers that read while the control thread changes everything.
 */
#include "check.h"
#include "cq_table.h"

static const uint8_t secret[CQ_LANE_SECRET_SIZE];

static struct cq_epoch *epoch_new(uint32_t rx_index)
{
    const struct cq_epoch_params p = {.rx_index = rx_index,
                                      .tx_index = ~rx_index ? ~rx_index : 1,
                                      .number = rx_index,
                                      .suite = CQ_SUITE_CHACHA20_POLY1305,
                                      .tx_lanes = 1,
                                      .rx_lanes = 1,
                                      .tx_secrets = secret,
                                      .rx_secrets = secret,
                                      .limits = cq_epoch_default_limits()};
    struct cq_epoch *epoch = cq_epoch_new(&p, NULL);
    REQUIRE(epoch != NULL);
    return epoch;
}

static uint32_t peer_new(struct cq_tables *t)
{
    uint32_t handle = CQ_ROUTE_NONE;
    REQUIRE(cq_table_add_peer(t, &handle) == CQ_OK);
    return handle;
}

static void install(struct cq_tables *t, uint32_t handle, uint32_t rx_index)
{
    REQUIRE(cq_table_install(t, handle, epoch_new(rx_index)) == CQ_OK);
}

static struct cq_endpoint endpoint_at(uint8_t remote, uint8_t local, enum cq_source source)
{
    return (struct cq_endpoint){
        .remote = {.host = {[15] = remote}, .port = 9, .family = 6}, .local = {[15] = local}, .source = source};
}

static bool same(const struct cq_endpoint *a, const struct cq_endpoint *b) { return memcmp(a, b, sizeof *a) == 0; }

/* ---- changes ---- */

static void test_handles_are_used_again(void)
{
    struct cq_tables t;
    REQUIRE(cq_table_init(&t, 1) == CQ_OK);
    for (uint32_t i = 0; i < 5; i++)
        CHECK_EQUAL(peer_new(&t), i);
    install(&t, 2, 77);
    CHECK_EQUAL(cq_table_remove_peer(&t, 2), CQ_OK);
    CHECK(cq_table_peer(&t, 2) == NULL);
    CHECK(cq_table_find(t.current, 77) == NULL);
    CHECK_EQUAL(t.live_epochs, 0);
    CHECK_EQUAL(cq_table_remove_peer(&t, 2), CQ_E_ARGUMENT);
    CHECK_EQUAL(peer_new(&t), 2);
    CHECK(cq_table_peer_of(t.current, 2)->active == NULL && cq_table_peer_of(t.current, 2)->promoted == NULL);
    CHECK_EQUAL(peer_new(&t), 5);
    cq_table_destroy(&t);
}

static void test_wrong_changes_change_nothing(void)
{
    struct cq_tables t;
    REQUIRE(cq_table_init(&t, 1) == CQ_OK);
    install(&t, peer_new(&t), 1);
    struct cq_table *before = t.current;
    struct cq_epoch *twice = epoch_new(1), *nobodys = epoch_new(2);
    CHECK_EQUAL(cq_table_install(&t, 0, twice), CQ_E_ARGUMENT);
    CHECK_EQUAL(cq_table_install(&t, 1, nobodys), CQ_E_ARGUMENT);
    CHECK_EQUAL(cq_table_activate(&t, 3), CQ_E_ARGUMENT);
    CHECK_EQUAL(cq_table_promote(&t, 3), CQ_E_ARGUMENT);
    CHECK_EQUAL(cq_table_remove(&t, 3), CQ_E_ARGUMENT);
    const struct cq_route_entry bad = {.family = 5, .prefix = 0, .value = 0};
    CHECK_EQUAL(cq_table_set_routes(&t, &bad, 1), CQ_E_ARGUMENT);
    CHECK(t.current == before);
    CHECK(t.retired == NULL);
    cq_epoch_free(twice);
    cq_epoch_free(nobodys);
    cq_table_destroy(&t);
}

static void test_indices_that_collide_are_all_found(void)
{
    struct cq_tables t;
    REQUIRE(cq_table_init(&t, 1) == CQ_OK);
    uint32_t handle = peer_new(&t);
    for (uint32_t i = 0; i < 40; i++) /* all in one place of the table: multiples of its size */
        install(&t, handle, 0x10000 * (i + 1));
    for (uint32_t i = 0; i < 40; i++)
        CHECK_EQUAL(cq_table_find(t.current, 0x10000 * (i + 1))->epoch->number, 0x10000 * (i + 1));
    CHECK(cq_table_find(t.current, 0x10000 * 41) == NULL);
    for (uint32_t i = 0; i < 40; i += 2)
        CHECK_EQUAL(cq_table_remove(&t, 0x10000 * (i + 1)), CQ_OK);
    for (uint32_t i = 0; i < 40; i++)
        CHECK_EQUAL(cq_table_find(t.current, 0x10000 * (i + 1)) != NULL, i % 2);
    CHECK_EQUAL(t.live_epochs, 20);
    cq_table_destroy(&t);
}

#define MANY 500u

/* What a table of many should be: the indices of each peer's epochs, 0 for none. */
static uint32_t model[MANY][2];

static void check_model(const struct cq_tables *t)
{
    size_t slots = 0, seen = 0;
    for (uint32_t peer = 0; peer < MANY; peer++)
        for (unsigned i = 0; i < 2; i++) {
            const struct cq_slot *s = model[peer][i] != 0 ? cq_table_find(t->current, model[peer][i]) : NULL;
            slots += model[peer][i] != 0;
            CHECK_EQUAL(s != NULL, model[peer][i] != 0);
            CHECK(s == NULL || s->peer->handle == peer);
        }
    for (size_t at = 0; cq_table_next(t->current, &at) != NULL;)
        seen++;
    CHECK_EQUAL(seen, slots);
    CHECK_EQUAL(t->current->slot_count, slots);
    CHECK_EQUAL(t->live_epochs, slots);
}

/* So many that pages are many, and places for indices have grown; random enough that every cluster of them is. */
static void test_many_peers_come_and_go(void)
{
    struct cq_tables t;
    memset(model, 0, sizeof model);
    REQUIRE(cq_table_init(&t, 1) == CQ_OK);
    for (uint32_t peer = 0; peer < MANY; peer++)
        CHECK_EQUAL(peer_new(&t), peer);
    for (unsigned step = 0; step < 6000; step++) {
        const uint32_t peer = (uint32_t)(check_random() % MANY);
        const unsigned i = check_random() % 2;
        if (check_random() % 40 == 0) { /* another peer has the handle from then on */
            CHECK_EQUAL(cq_table_remove_peer(&t, peer), CQ_OK);
            CHECK_EQUAL(peer_new(&t), peer);
            model[peer][0] = model[peer][1] = 0;
        } else if (model[peer][i] != 0) {
            CHECK_EQUAL(cq_table_remove(&t, model[peer][i]), CQ_OK);
            model[peer][i] = 0;
        } else { /* low bits from few values, so that they collide */
            uint32_t index = (uint32_t)check_random() << 8 | (uint32_t)(check_random() % 8);
            if (index == 0 || cq_table_find(t.current, index) != NULL)
                continue;
            install(&t, peer, index);
            CHECK_EQUAL(cq_table_activate(&t, index), CQ_OK);
            CHECK(cq_table_peer_of(t.current, peer)->active == cq_table_find(t.current, index));
            model[peer][i] = index;
        }
        if (step % 500 == 0)
            check_model(&t);
    }
    check_model(&t);
    CHECK(t.retired == NULL);
    cq_table_destroy(&t);
    CHECK_EQUAL(t.live_epochs, 0);
}

static void test_removed_epoch_is_neither_active_nor_promoted(void)
{
    struct cq_tables t;
    REQUIRE(cq_table_init(&t, 1) == CQ_OK);
    uint32_t handle = peer_new(&t);
    install(&t, handle, 1);
    install(&t, handle, 2);
    CHECK_EQUAL(cq_table_activate(&t, 1), CQ_OK);
    CHECK_EQUAL(cq_table_promote(&t, 2), CQ_OK);
    CHECK(cq_table_peer_of(t.current, handle)->active == cq_table_find(t.current, 1));
    CHECK(cq_table_peer_of(t.current, handle)->promoted == cq_table_find(t.current, 2));
    CHECK_EQUAL(cq_table_remove(&t, 2), CQ_OK);
    CHECK(cq_table_peer_of(t.current, handle)->promoted == NULL);
    CHECK(cq_table_peer_of(t.current, handle)->active == cq_table_find(t.current, 1));
    CHECK_EQUAL(cq_table_remove(&t, 1), CQ_OK);
    CHECK(cq_table_peer_of(t.current, handle)->active == NULL);
    cq_table_destroy(&t);
}

/* ---- what a worker holds ---- */

static void test_held_table_keeps_everything_in_it(void)
{
    struct cq_tables t;
    REQUIRE(cq_table_init(&t, 2) == CQ_OK);
    uint32_t handle = peer_new(&t);
    const struct cq_route_entry route = {.family = 4, .prefix = 8, .addr = {10}, .value = handle};
    REQUIRE(cq_table_set_routes(&t, &route, 1) == CQ_OK);
    install(&t, handle, 1);
    struct cq_table *held = cq_table_acquire(&t, 1);
    install(&t, handle, 2); /* not in the table that is held */
    CHECK_EQUAL(cq_table_remove(&t, 2), CQ_OK);
    CHECK_EQUAL(t.live_epochs, 1);
    CHECK_EQUAL(cq_table_set_routes(&t, NULL, 0), CQ_OK);
    CHECK_EQUAL(cq_table_remove_peer(&t, handle), CQ_OK);
    CHECK_EQUAL(t.live_epochs, 1);
    CHECK_EQUAL(cq_table_find(held, 1)->epoch->number, 1);
    CHECK_EQUAL(cq_table_find(held, 1)->peer->handle, handle);
    CHECK_EQUAL(cq_route_lookup4(held->routes, route.addr), handle);
    cq_table_release(&t, 1);
    CHECK_EQUAL(t.live_epochs, 1);
    cq_table_reclaim(&t);
    CHECK_EQUAL(t.live_epochs, 0);
    CHECK(t.retired == NULL);
    cq_table_destroy(&t);
}

static void test_one_worker_does_not_hold_what_another_released(void)
{
    struct cq_tables t;
    REQUIRE(cq_table_init(&t, 2) == CQ_OK);
    uint32_t handle = peer_new(&t);
    install(&t, handle, 1);
    (void)cq_table_acquire(&t, 0);
    CHECK_EQUAL(cq_table_remove(&t, 1), CQ_OK);
    CHECK(cq_table_find(cq_table_acquire(&t, 1), 1) == NULL);
    CHECK_EQUAL(t.live_epochs, 1);
    cq_table_release(&t, 0);
    cq_table_reclaim(&t);
    CHECK_EQUAL(t.live_epochs, 0);
    cq_table_release(&t, 1);
    cq_table_destroy(&t);
}

/* ---- permits ---- */

static struct cq_permit *permit_new(struct cq_tables *t, uint32_t last)
{
    const struct cq_access_rule rule = {.family = 4, .last = last};
    int error;
    struct cq_permit *permit = cq_table_make_permit(t, &rule, 1, &error);
    REQUIRE(permit != NULL);
    return permit;
}

static bool allows(const struct cq_table *table, uint32_t handle, uint32_t service)
{
    static const uint8_t to[4] = {10};
    return cq_access_allows(cq_table_peer_of(table, handle)->permit->rules.access, 4, to, service);
}

static void test_permit_lives_as_long_as_a_worker_holds_its_table(void)
{
    struct cq_tables t;
    REQUIRE(cq_table_init(&t, 1) == CQ_OK);
    const uint32_t one = peer_new(&t), two = peer_new(&t);
    struct cq_permit *narrow = permit_new(&t, 5), *wide = permit_new(&t, 9);
    CHECK(narrow->rules.serial != wide->rules.serial);
    const struct cq_table_permit first[] = {{one, narrow}, {two, narrow}}, second[] = {{one, wide}, {two, wide}};
    CHECK_EQUAL(cq_table_set_permits(&t, first, 2, narrow), CQ_OK);
    CHECK_EQUAL(narrow->places, 3);
    struct cq_table *held = cq_table_acquire(&t, 0);
    CHECK_EQUAL(cq_table_set_permits(&t, second, 2, wide), CQ_OK);
    CHECK(allows(held, one, 5) && !allows(held, one, 6)); /* under ASan: it is still there */
    CHECK(allows(t.current, one, 9) && allows(t.current, two, 9));
    const uint32_t three = peer_new(&t);
    CHECK(allows(t.current, three, 9));
    CHECK_EQUAL(wide->places, 4);
    cq_table_release(&t, 0);
    cq_table_reclaim(&t);
    CHECK_EQUAL(cq_table_remove_peer(&t, three), CQ_OK);
    CHECK_EQUAL(wide->places, 3);
    cq_table_destroy(&t);
}

static void test_permits_that_cannot_be_change_nothing(void)
{
    struct cq_tables t;
    REQUIRE(cq_table_init(&t, 1) == CQ_OK);
    const uint32_t one = peer_new(&t);
    struct cq_permit *permit = permit_new(&t, 5);
    const struct cq_table_permit unknown[] = {{one, permit}, {one + 1, permit}}, known[] = {{one, permit}};
    CHECK_EQUAL(cq_table_set_permits(&t, unknown, 2, permit), CQ_E_ARGUMENT);
    CHECK_EQUAL(cq_table_set_permits(&t, known, 1, NULL), CQ_E_ARGUMENT);
    CHECK(permit->places == 0 && t.current->newcomers == NULL && cq_table_peer_of(t.current, one)->permit == NULL);
    cq_table_drop_permit(permit);
    cq_table_drop_permit(NULL);
    cq_table_destroy(&t);
}

/* ---- endpoints ---- */

static void test_replace_needs_what_was_read(void)
{
    struct cq_shared_endpoint shared = {.writer = PTHREAD_MUTEX_INITIALIZER};
    struct cq_endpoint a = endpoint_at(1, 0, CQ_SOURCE_KERNEL), b = endpoint_at(2, 0, CQ_SOURCE_KERNEL), out;
    cq_endpoint_write(&shared, &a);
    CHECK(!cq_endpoint_replace(&shared, &b, &b));
    cq_endpoint_read(&shared, &out);
    CHECK(same(&out, &a));
    CHECK(cq_endpoint_replace(&shared, &a, &b));
    cq_endpoint_read(&shared, &out);
    CHECK(same(&out, &b));
    pthread_mutex_lock(&shared.writer); /* another writer is at work */
    CHECK(!cq_endpoint_replace(&shared, &b, &a));
    pthread_mutex_unlock(&shared.writer);
}

static void test_following_a_peer(void)
{
    struct cq_endpoint next, dialled = endpoint_at(1, 0, CQ_SOURCE_KERNEL), asked = endpoint_at(1, 5, CQ_SOURCE_PINNED);
    struct cq_endpoint elsewhere = endpoint_at(2, 6, CQ_SOURCE_PINNED), gone = endpoint_at(1, 5, CQ_SOURCE_FORGOTTEN);
    struct cq_endpoint unnamed = endpoint_at(1, 0, CQ_SOURCE_KERNEL);

    CHECK(!cq_endpoint_follow(&dialled, &asked, &next)); /* who dials pins nothing */
    CHECK(cq_endpoint_follow(&dialled, &elsewhere, &next));
    CHECK(next.remote.host[15] == 2 && next.source == CQ_SOURCE_KERNEL && next.local[15] == 0);

    CHECK(!cq_endpoint_follow(&asked, &asked, &next));
    CHECK(cq_endpoint_follow(&asked, &elsewhere, &next) && same(&next, &elsewhere));
    elsewhere.remote = asked.remote;
    CHECK(cq_endpoint_follow(&asked, &elsewhere, &next) && same(&next, &elsewhere)); /* our address alone changed */

    CHECK(!cq_endpoint_follow(&gone, &asked, &next)); /* refused, and nothing has changed since */
    CHECK(cq_endpoint_follow(&gone, &elsewhere, &next) && same(&next, &elsewhere));

    CHECK(!cq_endpoint_follow(&asked, &unnamed, &next)); /* nothing says to which address */
    struct cq_endpoint other = asked, called = dialled;
    other.group = called.group = 1; /* the same addresses, and another of our ports */
    CHECK(cq_endpoint_follow(&asked, &other, &next) && same(&next, &other) && cq_endpoint_moved(&asked, &next));
    CHECK(cq_endpoint_follow(&dialled, &other, &next) && same(&next, &called));
    unnamed.remote.port++;
    CHECK(cq_endpoint_follow(&asked, &unnamed, &next));
    CHECK_EQUAL(next.source, CQ_SOURCE_FORGOTTEN);
    CHECK(cq_endpoint_follow(&next, &asked, &next) && same(&next, &asked));
}

static void test_promotion_adopts_a_path_once(void)
{
    struct cq_tables t;
    struct cq_endpoint out, home = endpoint_at(1, 5, CQ_SOURCE_PINNED), path = endpoint_at(2, 6, CQ_SOURCE_PINNED);
    REQUIRE(cq_table_init(&t, 1) == CQ_OK);
    uint32_t handle = peer_new(&t);
    struct cq_peer *peer = cq_table_peer(&t, handle);
    install(&t, handle, 1);
    cq_endpoint_write(&peer->endpoint, &home);
    CHECK_EQUAL(cq_table_promote(&t, 1), CQ_OK);
    cq_endpoint_read(&peer->endpoint, &out);
    CHECK(same(&out, &home)); /* no record has come */
    cq_endpoint_write(&cq_table_find(t.current, 1)->path, &path);
    CHECK_EQUAL(cq_table_promote(&t, 1), CQ_OK);
    cq_endpoint_read(&peer->endpoint, &out);
    CHECK(same(&out, &path));
    cq_endpoint_write(&peer->endpoint, &home);
    CHECK_EQUAL(cq_table_promote(&t, 1), CQ_OK);
    cq_endpoint_read(&peer->endpoint, &out);
    CHECK(same(&out, &home));
    cq_table_destroy(&t);
}

/* ---- with threads ---- */

#define WORKERS 3
#define CHANGES 20000
#define HANDLES 4u
#define INDICES 12u

static struct cq_tables shared;
static _Atomic bool done;
static _Atomic unsigned acquired, found, torn, wrong;

/* An endpoint that shows when it is put together from two: every byte of both hosts is the same. */
static struct cq_endpoint uniform(uint8_t byte)
{
    struct cq_endpoint e;
    memset(&e, byte, sizeof e);
    return e;
}

static bool is_uniform(const struct cq_endpoint *e)
{
    const uint8_t *p = (const uint8_t *)e;
    for (size_t i = 1; i < sizeof *e; i++)
        if (p[i] != p[0])
            return false;
    return true;
}

/* What a worker does with a table, and how it would notice that something in it was freed or wiped. */
static void look_around(const struct cq_table *table, uint8_t byte)
{
    for (uint32_t index = 1; index <= INDICES; index++) {
        struct cq_slot *s = cq_table_find(table, index);
        if (s == NULL)
            continue;
        struct cq_endpoint e, next = uniform(byte);
        cq_endpoint_read(&s->peer->endpoint, &e);
        torn += !is_uniform(&e);
        (void)cq_endpoint_replace(&s->peer->endpoint, &e, &next);
        found++;
        wrong += s->epoch->number != index || s->epoch->tx_index != ~index || s->peer->handle >= HANDLES ||
                 cq_table_peer_of(table, s->peer->handle)->peer != s->peer;
    }
    const uint8_t address[4] = {10, 0, 0, 1};
    uint32_t owner = cq_route_lookup4(table->routes, address);
    wrong += owner != CQ_ROUTE_NONE && owner >= HANDLES;
}

static void *worker(void *arg)
{
    size_t number = (size_t)(uintptr_t)arg;
    while (!done) {
        look_around(cq_table_acquire(&shared, number), (uint8_t)(number + 1));
        cq_table_release(&shared, number);
        acquired++;
    }
    return NULL;
}

static void change(uint64_t dice)
{
    uint32_t handle = (uint32_t)(dice >> 8) % HANDLES, index = 1 + (uint32_t)(dice >> 16) % INDICES;
    struct cq_peer *peer = cq_table_peer(&shared, handle);
    const struct cq_route_entry route = {.family = 4, .prefix = 8, .addr = {10}, .value = handle};
    const struct cq_route_entry none = {.family = 4, .prefix = 8, .addr = {10}, .value = CQ_ROUTE_NONE};
    struct cq_endpoint e = uniform((uint8_t)(0x40 + (dice >> 24) % 0x40));
    struct cq_epoch *epoch;
    switch (dice % 8) {
    case 0:
        if (peer == NULL)
            (void)cq_table_add_peer(&shared, &handle);
        else
            (void)cq_table_remove_peer(&shared, handle);
        break;
    case 1:
    case 2:
    case 3:
        epoch = epoch_new(index);
        if (cq_table_install(&shared, handle, epoch) != CQ_OK)
            cq_epoch_free(epoch);
        break;
    case 4: (void)cq_table_remove(&shared, index); break;
    case 5: (void)cq_table_activate(&shared, index); break;
    case 6:
        if (dice >> 32 & 1)
            (void)cq_table_set_routes(&shared, &route, dice >> 33 & 1);
        else
            (void)cq_table_change_routes(&shared, dice >> 33 & 1 ? &route : &none, 1);
        break;
    default:
        if (peer != NULL)
            cq_endpoint_write(&peer->endpoint, &e);
    }
}

static void test_workers_read_while_everything_changes(void)
{
    pthread_t threads[WORKERS];
    REQUIRE(cq_table_init(&shared, WORKERS) == CQ_OK);
    for (uint32_t i = 0; i < HANDLES; i++)
        (void)peer_new(&shared);
    for (size_t i = 0; i < WORKERS; i++)
        REQUIRE(pthread_create(&threads[i], NULL, worker, (void *)(uintptr_t)i) == 0);
    for (unsigned i = 0; i < CHANGES || acquired < CHANGES || found < CHANGES; i++)
        change(check_random());
    done = true;
    for (size_t i = 0; i < WORKERS; i++)
        pthread_join(threads[i], NULL);
    CHECK_EQUAL(torn, 0);
    CHECK_EQUAL(wrong, 0);
    cq_table_reclaim(&shared);
    CHECK(shared.retired == NULL);
    CHECK_EQUAL(shared.live_epochs, shared.current->slot_count);
    cq_table_destroy(&shared);
    CHECK_EQUAL(shared.live_epochs, 0);
}

int main(void)
{
    RUN(test_handles_are_used_again);
    RUN(test_wrong_changes_change_nothing);
    RUN(test_indices_that_collide_are_all_found);
    RUN(test_many_peers_come_and_go);
    RUN(test_removed_epoch_is_neither_active_nor_promoted);
    RUN(test_held_table_keeps_everything_in_it);
    RUN(test_one_worker_does_not_hold_what_another_released);
    RUN(test_permit_lives_as_long_as_a_worker_holds_its_table);
    RUN(test_permits_that_cannot_be_change_nothing);
    RUN(test_replace_needs_what_was_read);
    RUN(test_following_a_peer);
    RUN(test_promotion_adopts_a_path_once);
    RUN(test_workers_read_while_everything_changes);
    return check_done();
}
