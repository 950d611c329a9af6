/*
 * AES-256-GCM (NIST SP 800-38D) with 96-bit nonces, written once for vectors V of LANES blocks each. A back end
 * defines the operations below for its instruction set and then includes this file, which gives it init, seal, open
 * and wipe. There is no include guard: it is a template.
 *
 *   GCM_TARGET         the target attribute of the instruction set
 *   GCM_FN             static inline, always inlined, with that attribute
 *   GCM_OPAQUE         hides from the compiler how the value of a vector came about, and so keeps it in a register
 *   V, LANES           a vector, and how many blocks it holds
 *   WIDTH              vectors in a group, at most 8: enough to hide the latency of an AES round
 *   SPAN               groups that are hashed with one reduction
 *   HASH_FROM          the round of a group's encryption from which on another group is hashed: late enough for a
 *                      ciphertext that has only just been computed, early enough for it all to fit in
 *   RELOAD             makes the compiler load again what it has in registers, if these are few: the argument is a
 *                      pointer, and afterwards the compiler cannot know what it points to
 *   v_zero, v_block    nothing; the block lo | hi << 64 in the first lane and zeros in the others
 *   v_low64            the lower half of the first lane
 *   v_spread           the first lane, in every lane
 *   v_load, v_store    whole vectors, unaligned
 *   v_load_block, v_store_block    the first lane, unaligned; loading zeroes the others
 *   v_load_part, v_store_part      the first n bytes, n <= sizeof(V), and no others; loading zeroes the rest
 *   v_keep             the first n bytes, n <= sizeof(V), and zeros
 *   v_xor, v_xor3      sums of two and of three
 *   v_reverse, v_swap  in each lane: the order of the bytes; the two halves
 *   v_count, V_INDEX   adds to the lowest 32 bits of each lane; the number of each lane there
 *   v_start, v_round, v_finish     AES: before the first round, rounds 1 to 13, round 14; with the previous round's
 *                      key too, since some machines add it at the start of a round and others at the end
 *   v_ll, v_hh         in each lane: carry-less product of the lower halves, of the upper halves
 *   v_fold             the sum of all lanes in the first lane, zeros in the others
 *
 * Constant time: branches and addresses depend on lengths only, and on whether a tag is right.
 */

enum {
    GROUP = WIDTH * LANES,     /* blocks */
    POWERS = SPAN * GROUP + 2, /* for a span, the block of lengths and that of the additional data */
    ROWS = POWERS + LANES - 1, /* and, for the lanes of a last vector that hold no block, anything */
    COUNTERS = 128,            /* whose first round is kept: enough for a packet of 2,000 bytes */
    START_ROWS = COUNTERS + 2, /* from row 2 on: so counter 2, of a text's first block, is at a multiple of 64 bytes */
};

static const size_t group_size = (size_t)GROUP * GCM_BLOCK;

struct state {
    _Alignas(64) V keys[GCM_ROUNDS + 1];                /* each in every lane */
    _Alignas(64) uint8_t starts[START_ROWS][GCM_BLOCK]; /* row 2 + c: what counter c changes in round 1's result */
    uint8_t powers[ROWS][GCM_BLOCK];                    /* row i: H^(POWERS - i) */
    uint8_t sums[ROWS][GCM_BLOCK];                      /* the sum of a power's halves, in both halves */
};

/* ---- AES-256 ---- */

/* The S-box on each byte of a word, from the AES instruction for the last round, which looks nothing up in memory.
 * That round also moves bytes between columns, which changes nothing where all columns are the same. */
GCM_FN uint32_t sub_word(uint32_t word)
{
    uint64_t columns = (uint64_t)word << 32 | word;
    return (uint32_t)v_low64(v_finish(v_block(columns, columns), v_zero(), v_zero()));
}

/* FIPS 197, section 5.2. Words are little-endian here, so that RotWord turns right. */
GCM_TARGET static void expand_key(uint8_t *schedule, const uint8_t *secret)
{
    memcpy(schedule, secret, CQ_KEY_SIZE);
    for (unsigned i = GCM_KEY_WORDS; i < GCM_SCHEDULE_WORDS; i++) {
        uint32_t word = gcm_load32(schedule + 4 * (i - 1));
        if (i % GCM_KEY_WORDS == 0) {
            word = sub_word(word);
            word = (word >> 8 | word << 24) ^ 1u << (i / GCM_KEY_WORDS - 1);
        } else if (i % GCM_KEY_WORDS == 4) {
            word = sub_word(word);
        }
        word ^= gcm_load32(schedule + 4 * (i - GCM_KEY_WORDS));
        memcpy(schedule + 4 * i, &word, sizeof word);
    }
}

/* ---- GHASH ---- */

#include "cq_gcm_ghash.h"

/* ---- records ---- */

struct run {
    V start;        /* the nonce with a counter of 0 after round 1 */
    V index;        /* the nonce and each lane's number as its counter, bytes reversed */
    size_t counter; /* of the next block */
    struct hash hash;
    const uint8_t *in;
    uint8_t *out;
};

GCM_FN V first_round(const struct state *s, V a) { return v_round(v_start(a, s->keys[0]), s->keys[0], s->keys[1]); }

/* The next n vectors of counter blocks after round 1. Up to a counter of 255 the blocks differ in the last byte alone,
 * and behind the S-box all of a round is linear: so their states differ by what that byte, and not the nonce, makes of
 * it. The key has these differences in a table, whose index is no secret. */
GCM_FN void next_counters(const struct state *s, struct run *run, V *b, unsigned n)
{
    if (run->counter + n * LANES <= COUNTERS) {
        GCM_UNROLL
        for (unsigned i = 0; i < n; i++)
            b[i] = v_xor(run->start, v_load(s->starts[2 + run->counter + i * LANES]));
    } else {
        GCM_UNROLL
        for (unsigned i = 0; i < n; i++) {
            V count = v_spread(v_block(run->counter + i * LANES, 0));
            b[i] = first_round(s, v_reverse(v_count(run->index, count)));
        }
    }
    run->counter += n * LANES;
}

/* A round key, in a register: as an operand in memory it would be loaded for each vector, which takes longer. */
GCM_FN V round_key(const struct state *s, unsigned r)
{
    V key = s->keys[r];

    GCM_OPAQUE(key);
    return key;
}

/* Encrypts n vectors from round 2 on, n a constant, and, if `hashing` (a constant), hashes a group between the rounds,
 * so that products fill the latency of rounds and rounds that of products. */
GCM_FN void encrypt(const struct state *s, V *b, unsigned n, struct hash *h, bool hashing, const uint8_t *group)
{
    GCM_UNROLL
    for (unsigned r = 2; r < GCM_ROUNDS; r++) {
        const V before = round_key(s, r - 1), key = round_key(s, r);
        GCM_UNROLL
        for (unsigned i = 0; i < n; i++) {
            b[i] = v_round(b[i], before, key);
            GCM_HERE(b[i]);
        }
        GCM_UNROLL
        for (unsigned i = 0; i < HASH_STEPS; i++)
            if (hashing && HASH_ROUND(i) == r)
                hash_step(h, group, i);
    }
    const V before = round_key(s, GCM_ROUNDS - 1), key = round_key(s, GCM_ROUNDS);
    GCM_UNROLL
    for (unsigned i = 0; i < n; i++)
        b[i] = v_finish(b[i], before, key);
    if (hashing)
        hash_next(s, h);
}

/* Encrypts or decrypts a group, and hashes the ciphertext of one, if `hashing` (a constant). */
GCM_FN void whole_group(const struct state *s, struct run *run, bool hashing, const uint8_t *ciphertext)
{
    V b[WIDTH];

    RELOAD(ciphertext);
    next_counters(s, run, b, WIDTH);
    encrypt(s, b, WIDTH, &run->hash, hashing, ciphertext);
    GCM_UNROLL
    for (unsigned i = 0; i < WIDTH; i++)
        b[i] = v_xor(b[i], v_load(run->in + i * sizeof(V)));
    GCM_UNROLL
    for (unsigned i = 0; i < WIDTH; i++)
        v_store(run->out + i * sizeof(V), b[i]);
    run->in += group_size;
    run->out += group_size;
}

/* The end of a record: its last, `part`, and the tag. */
struct end {
    V part;      /* the last vector's text, and zeros */
    size_t size; /* of that text */
    V tag;
};

/* The last `count` vectors of text (a constant), all but the last of them whole, and the tag, which the record's first
 * counter block encrypts. */
GCM_FN void last_vectors(const struct state *s, struct run *run, struct end *end, unsigned count, bool sealing,
                         bool hashing)
{
    V b[WIDTH + 1], text[WIDTH + 1];

    /* Or else addresses that only some of the counts need are computed, and spilled, in every whole group. */
    GCM_OPAQUE_WORD(run->hash.power);
    GCM_OPAQUE_WORD(run->in);
    GCM_OPAQUE_WORD(run->out);
    GCM_OPAQUE_WORD(run->counter);
    GCM_UNROLL
    for (unsigned i = 0; i < count; i++) {
        text[i] = i + 1 < count ? v_load(run->in + i * sizeof(V)) : end->part;
        if (!sealing)
            hash_vector(&run->hash, v_reverse(text[i]), i);
    }
    next_counters(s, run, b, count);
    b[count] = v_xor(run->start, v_load_block(s->starts[2 + 1]));
    encrypt(s, b, count + 1, &run->hash, hashing, run->out - (hashing ? group_size : 0));
    GCM_UNROLL
    for (unsigned i = 0; i < count; i++) {
        text[i] = v_xor(b[i], text[i]);
        if (i + 1 < count)
            v_store(run->out + i * sizeof(V), text[i]);
        else
            end->part = text[i] = v_keep(text[i], end->size);
        if (sealing)
            hash_vector(&run->hash, v_reverse(text[i]), i);
    }
    end->tag = v_xor(v_reverse(v_fold(reduce(run->hash.p))), b[count]);
}

/* The last n bytes, at most a group, and the tag. */
GCM_FN void last_group(const struct state *s, struct run *run, size_t n, bool sealing, bool hashing,
                       uint8_t tag[CQ_TAG_SIZE])
{
    _Static_assert(WIDTH <= 8, "a case for each count");
    const size_t count = (n + sizeof(V) - 1) / sizeof(V), whole = count == 0 ? 0 : (count - 1) * sizeof(V);
    struct end end = {.part = v_load_part(run->in + whole, n - whole), .size = n - whole};
    uint8_t *out = run->out + whole;

    switch (count) {
#define LAST_VECTORS(n)                                                                                                \
    case n:                                                                                                            \
        if (n <= WIDTH)                                                                                                \
            last_vectors(s, run, &end, n <= WIDTH ? n : 0, sealing, hashing);                                          \
        break;
        LAST_VECTORS(0)
        LAST_VECTORS(1)
        LAST_VECTORS(2)
        LAST_VECTORS(3)
        LAST_VECTORS(4)
        LAST_VECTORS(5)
        LAST_VECTORS(6)
        LAST_VECTORS(7)
        LAST_VECTORS(8)
#undef LAST_VECTORS
    default: __builtin_unreachable();
    }
    v_store_part(out, end.size, end.part);
    v_store_block(tag, end.tag);
}

/* Encrypts or decrypts a record and computes its tag; `sealing` is a constant. */
GCM_FN void crypt(const struct state *s, const uint8_t nonce[CQ_IV_SIZE], const uint8_t *aad, size_t aad_len,
                  const uint8_t *in, size_t n, uint8_t *out, bool sealing, uint8_t tag[CQ_TAG_SIZE])
{
    /* SP 800-38D, section 7.1: the tag has the nonce and a counter of 1; the text begins with 2. */
    const V block = v_spread(v_block(gcm_load64(nonce), gcm_load32(nonce + 8)));
    struct run run = {.counter = 2, .in = in, .out = out};

    run.start = first_round(s, block);
    run.index = v_count(v_reverse(block), V_INDEX);
    run.hash.blocks = (n + GCM_BLOCK - 1) / GCM_BLOCK + 1;
    run.hash.lengths = v_block((uint64_t)n * 8, (uint64_t)aad_len * 8);
    hash_aad(s, &run.hash, aad, aad_len);
    /* The ciphertext of a group that is opened is there to be hashed at once; one that is sealed is, a group later. */
    if (!sealing) {
        for (; n >= group_size; n -= group_size)
            whole_group(s, &run, true, run.in);
        last_group(s, &run, n, false, false, tag);
    } else if (n >= group_size) {
        whole_group(s, &run, false, NULL);
        for (n -= group_size; n >= group_size; n -= group_size)
            whole_group(s, &run, true, run.out - group_size);
        last_group(s, &run, n, true, true, tag);
    } else {
        last_group(s, &run, n, true, false, tag);
    }
}

GCM_TARGET static int seal(struct cq_aead_key *key, const uint8_t nonce[CQ_IV_SIZE], const uint8_t *aad, size_t aad_len,
                           const uint8_t *in, size_t n, uint8_t *out)
{
    if (n > INT_MAX || aad_len > INT_MAX) /* as with EVP; GCM would allow 2^36 - 32 bytes */
        return CQ_E_ARGUMENT;
    crypt(key->state, nonce, aad, aad_len, in, n, out, true, out + n);
    return CQ_OK;
}

GCM_TARGET static int open(struct cq_aead_key *key, const uint8_t nonce[CQ_IV_SIZE], const uint8_t *aad, size_t aad_len,
                           const uint8_t *in, size_t n, uint8_t *out)
{
    uint8_t tag[CQ_TAG_SIZE];

    if (n > INT_MAX || aad_len > INT_MAX)
        return CQ_E_ARGUMENT;
    crypt(key->state, nonce, aad, aad_len, in, n, out, false, tag);
    if (!cq_aead_tags_equal(tag, in + n)) {
        /* What was decrypted before the tag was known to be wrong goes nowhere; nor does the right tag. */
        cq_wipe(out, n);
        cq_wipe(tag, sizeof tag);
        return CQ_E_AUTH;
    }
    return CQ_OK;
}

/* ---- keys ---- */

/* H * x: a bit that leaves at the top comes back as the polynomial. */
GCM_FN V times_x(V h)
{
    uint64_t lo = v_low64(h), hi = v_low64(v_swap(h)), carry = hi >> 63;
    return v_block(lo << 1 | carry, (hi << 1 | lo >> 63) ^ ((0 - carry) & GCM_POLYNOMIAL));
}

GCM_TARGET static int init(struct cq_aead_key *key, const uint8_t secret[CQ_KEY_SIZE])
{
    struct state *s = aligned_alloc(_Alignof(struct state), sizeof *s);
    V h[1] = {v_zero()};

    if (s == NULL)
        return CQ_E_MEMORY;
    memset(s, 0, sizeof *s);
    expand_key((uint8_t *)s->keys, secret);
    for (unsigned i = GCM_ROUNDS + 1; i-- != 0;) /* downwards, since a vector may take the place of several keys */
        s->keys[i] = v_spread(v_load_block((uint8_t *)s->keys + i * GCM_BLOCK));
    h[0] = first_round(s, h[0]);
    for (size_t c = 0; c < COUNTERS; c++)
        v_store_block(s->starts[2 + c], v_xor(h[0], first_round(s, v_block(0, (uint64_t)c << 56))));
    encrypt(s, h, 1, NULL, false, NULL);
    const V one = times_x(v_reverse(h[0]));
    V power = one;
    for (unsigned i = 1; i <= POWERS; i++) {
        v_store_block(s->powers[POWERS - i], power);
        v_store_block(s->sums[POWERS - i], halves_sum(power));
        power = reduce(multiply(power, one, halves_sum(one)));
    }
    key->state = s;
    return CQ_OK;
}

static void wipe(struct cq_aead_key *key)
{
    cq_wipe_free(key->state, sizeof(struct state));
    key->state = NULL;
}
