/*
 * AES-256-GCM (NIST SP 800-38D) with 96-bit nonces, written once for vectors V of LANES blocks each. A back end
 * defines the operations below for its instruction set and then includes this file, which gives it init, seal, open
 * and wipe. There is no include guard: it is a template.
 *
 *   GCM_TARGET         the target attribute of the instruction set
 *   GCM_FN             static inline, always inlined, with that attribute
 *   GCM_OPAQUE         hides from the compiler how the value of a variable came about
 *   V, LANES           a vector, and how many blocks it holds
 *   WIDTH              vectors in a group, a multiple of 4: enough to hide the latency of an AES round
 *   SPAN               groups that are hashed with one reduction
 *   HASH_FROM          the round of a group's encryption from which on another group is hashed: late enough for a
 *                      ciphertext that has only just been computed, early enough for it all to fit in
 *   RELOAD             makes the compiler load again what it has in registers, if these are few: the argument is a
 *                      pointer, and afterwards the compiler cannot know what it points to
 *   v_zero, v_block    nothing; the block lo | hi << 64 in the first lane and zeros in the others
 *   v_low64            the lower half of the first lane
 *   v_spread           the first lane, in every lane
 *   v_put, v_get       replaces lane i with that of a spread b; lane i, as the first one
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
 * GHASH: a block is held with its bytes reversed, as an integer whose lowest bit is the coefficient of x^127. The
 * product of two such integers is that of the polynomials but for a factor x, which is why a power of the hash key
 * H is stored as H^i * x. The blocks of a span are multiplied by falling powers of H, down to H^1, and their sum is
 * reduced once. A record of up to SPAN * GROUP blocks is one span.
 *
 * Constant time: branches and addresses depend on lengths only, and on whether a tag is right.
 */

enum {
    GROUP = WIDTH * LANES,           /* blocks */
    STEP = WIDTH / 4,                /* a record's last vectors are rounded up to a multiple of this */
    POWERS = SPAN * GROUP + 2,       /* for a span, the block of lengths and that of the additional data */
    ROWS = POWERS + STEP * LANES - 1 /* and, for blocks that are only there by rounding up, zeros */
};

static const size_t group_size = (size_t)GROUP * GCM_BLOCK;

/* Where vector i of n bytes begins, at most at their end, and how many of the bytes are in it. */
#define PART_AT(i, n) ((n) < (i) * sizeof(V) ? (n) : (i) * sizeof(V))
#define PART_SIZE(i, n) ((n) - PART_AT(i, n) < sizeof(V) ? (n) - PART_AT(i, n) : sizeof(V))

struct state {
    _Alignas(64) V keys[GCM_ROUNDS + 1]; /* each in every lane */
    uint8_t powers[ROWS][GCM_BLOCK];     /* row i: H^(POWERS - i) */
    uint8_t sums[ROWS][GCM_BLOCK];       /* the sum of a power's halves, in both halves */
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

/* A sum that the compiler must form here and now. Left alone, it sorts the terms of long sums anew and keeps more of
 * them than there are registers. */
GCM_FN V v_add(V sum, V term)
{
    sum = v_xor(sum, term);
    GCM_OPAQUE(sum);
    return sum;
}

GCM_FN V halves_sum(V a) { return v_xor(a, v_swap(a)); }

/* A sum of products before reduction, by Karatsuba's method, in each lane: lo + (mi - lo - hi) * 2^64 + hi * 2^128. */
struct product {
    V lo, mi, hi;
};

GCM_FN struct product multiply(V a, V b, V b_sum)
{
    return (struct product){v_ll(a, b), v_ll(halves_sum(a), b_sum), v_hh(a, b)};
}

/* Modulo x^128 + x^7 + x^2 + x + 1, which reads 1 + polynomial * 2^64 + 2^128 here: a multiple of it clears the lowest
 * 64 bits, and then the next. */
GCM_FN V reduce(struct product p)
{
    const V polynomial = v_spread(v_block(GCM_POLYNOMIAL, 0));
    V mi = v_xor3(p.mi, p.lo, p.hi);

    mi = v_xor3(mi, v_swap(p.lo), v_ll(p.lo, polynomial));
    return v_xor3(p.hi, v_swap(mi), v_ll(mi, polynomial));
}

/* The hash of a record on its way: a sum of products, the row of the power for the next block, and how many blocks are
 * to come, the lengths among them. */
struct hash {
    struct product p;
    size_t row, blocks;
};

/* Begins a span after the block y, which is `gap` blocks before it or, if that is 0, still to be added to its first. */
GCM_FN void hash_begin(const struct state *s, struct hash *h, V y, size_t gap)
{
    h->row = POWERS - (h->blocks <= SPAN * GROUP + 1 ? h->blocks : SPAN * GROUP);
    h->p = multiply(y, v_load_block(s->powers[h->row - gap]), v_load_block(s->sums[h->row - gap]));
}

/* The additional data, 16 bytes in a record, may have any length. Its last block becomes a term of the first span. */
GCM_FN void hash_aad(const struct state *s, struct hash *h, const uint8_t *aad, size_t n)
{
    const V power = v_load_block(s->powers[POWERS - 1]), sum = v_load_block(s->sums[POWERS - 1]);
    V y = v_zero();

    for (; n > GCM_BLOCK; n -= GCM_BLOCK, aad += GCM_BLOCK)
        y = reduce(multiply(v_xor(y, v_reverse(v_load_block(aad))), power, sum));
    if (n == GCM_BLOCK) {
        y = v_xor(y, v_reverse(v_load_block(aad)));
    } else {
        struct gcm_halves last = gcm_load_partial(aad, n);
        y = v_xor(y, v_reverse(v_block(last.lo, last.hi)));
    }
    hash_begin(s, h, y, 1);
}

GCM_FN void hash_vector(const struct state *s, struct hash *h, V a, unsigned i)
{
    const uint8_t *power = s->powers[h->row + i * LANES], *sum = s->sums[h->row + i * LANES];

    h->p.lo = v_add(h->p.lo, v_ll(a, v_load(power)));
    h->p.hi = v_add(h->p.hi, v_hh(a, v_load(power)));
    h->p.mi = v_add(h->p.mi, v_ll(halves_sum(a), v_load(sum)));
}

/* A group is hashed in steps of one product, so that they can be spread over the rounds of an encryption. */
enum { HASH_STEPS = 3 * WIDTH };

/* The round after which a step is done: the last of them before the last round. */
#define HASH_ROUND(step) (HASH_FROM + (step) * (GCM_ROUNDS - 1 - HASH_FROM) / HASH_STEPS)

GCM_FN void hash_step(const struct state *s, struct hash *h, const uint8_t *group, unsigned step)
{
    const unsigned i = step / 3;
    const uint8_t *power = s->powers[h->row + i * LANES], *sum = s->sums[h->row + i * LANES];
    const V a = v_reverse(v_load(group + i * sizeof(V)));

    if (step % 3 == 0)
        h->p.lo = v_add(h->p.lo, v_ll(a, v_load(power)));
    else if (step % 3 == 1)
        h->p.hi = v_add(h->p.hi, v_hh(a, v_load(power)));
    else
        h->p.mi = v_add(h->p.mi, v_ll(halves_sum(a), v_load(sum)));
}

/* After a group; at the end of a span that is not the record's last, another begins. */
GCM_FN void hash_next(const struct state *s, struct hash *h)
{
    h->blocks -= GROUP;
    h->row += GROUP;
    if (h->row == POWERS)
        hash_begin(s, h, v_fold(reduce(h->p)), 0);
}

/* ---- records ---- */

struct run {
    V counters;   /* the next vector of them, bytes reversed */
    unsigned low; /* the lowest byte of the first */
    struct hash hash;
    const uint8_t *in;
    uint8_t *out;
};

/* The next n vectors of counter blocks. They are big-endian; up to a counter of 255 only the last byte changes, and one
 * reversal does for all. */
GCM_FN void next_counters(struct run *run, V *b, unsigned n)
{
    b[0] = v_reverse(run->counters);
    if (run->low + n * LANES <= 256) {
        GCM_UNROLL
        for (unsigned i = 1; i < n; i++)
            b[i] = v_count(b[i - 1], v_spread(v_block(0, (uint64_t)LANES << 56)));
    } else {
        GCM_UNROLL
        for (unsigned i = 1; i < n; i++)
            b[i] = v_reverse(v_count(run->counters, v_spread(v_block(i * LANES, 0))));
    }
    run->counters = v_count(run->counters, v_spread(v_block(n * LANES, 0)));
    run->low = (uint8_t)(run->low + n * LANES);
}

/* Encrypts n vectors, n a constant, and, if `hashing` (a constant), hashes a group between the rounds, so that products
 * fill the latency of rounds and rounds that of products. */
GCM_FN void encrypt(const struct state *s, V *b, unsigned n, struct hash *h, bool hashing, const uint8_t *group)
{
    GCM_UNROLL
    for (unsigned i = 0; i < n; i++)
        b[i] = v_start(b[i], s->keys[0]);
    GCM_UNROLL
    for (unsigned r = 1; r < GCM_ROUNDS; r++) {
        GCM_UNROLL
        for (unsigned i = 0; i < n; i++)
            b[i] = v_round(b[i], s->keys[r - 1], s->keys[r]);
        GCM_UNROLL
        for (unsigned i = 0; i < HASH_STEPS; i++)
            if (hashing && HASH_ROUND(i) == r)
                hash_step(s, h, group, i);
    }
    GCM_UNROLL
    for (unsigned i = 0; i < n; i++)
        b[i] = v_finish(b[i], s->keys[GCM_ROUNDS - 1], s->keys[GCM_ROUNDS]);
    if (hashing)
        hash_next(s, h);
}

/* Encrypts or decrypts a group, and hashes the ciphertext of one, if `hashing` (a constant). */
GCM_FN void whole_group(const struct state *s, struct run *run, bool hashing, const uint8_t *ciphertext)
{
    V b[WIDTH];

    RELOAD(ciphertext);
    next_counters(run, b, WIDTH);
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

/* The last n bytes, less than a group, and the tag, in `count` vectors (a constant). The tag's block follows the last
 * of the text, in one of the last STEP vectors: its counter is the record's first and its ciphertext the lengths. */
GCM_FN void last_blocks(const struct state *s, struct run *run, size_t n, unsigned count, V first, V lengths,
                        bool sealing, bool hashing, uint8_t tag[CQ_TAG_SIZE])
{
    const size_t tag_block = (n + GCM_BLOCK - 1) / GCM_BLOCK;
    V b[WIDTH + STEP], text[WIDTH + STEP], mask = v_zero();

    GCM_UNROLL
    for (unsigned i = 0; i < count; i++) {
        text[i] = i + STEP + 1 < count ? v_load(run->in + i * sizeof(V))
                                       : v_load_part(run->in + PART_AT(i, n), PART_SIZE(i, n));
        if (!sealing) {
            V a = v_reverse(text[i]);
            if (i + STEP >= count && tag_block / LANES == i)
                a = v_put(a, tag_block % LANES, lengths);
            hash_vector(s, &run->hash, a, i);
        }
    }
    next_counters(run, b, count);
    GCM_UNROLL
    for (unsigned i = count - STEP; i < count; i++)
        if (tag_block / LANES == i)
            b[i] = v_put(b[i], tag_block % LANES, v_reverse(first));
    if (hashing)
        encrypt(s, b, count, &run->hash, true, run->out - group_size);
    else
        encrypt(s, b, count, &run->hash, false, NULL);
    GCM_UNROLL
    for (unsigned i = 0; i < count; i++) {
        V result = v_xor(b[i], text[i]);
        if (i + STEP + 1 < count) {
            v_store(run->out + i * sizeof(V), result);
        } else {
            v_store_part(run->out + PART_AT(i, n), PART_SIZE(i, n), result);
            result = v_keep(result, PART_SIZE(i, n));
        }
        if (i + STEP >= count && tag_block / LANES == i)
            mask = v_get(b[i], tag_block % LANES);
        if (sealing) {
            V a = v_reverse(result);
            if (i + STEP >= count && tag_block / LANES == i)
                a = v_put(a, tag_block % LANES, lengths);
            hash_vector(s, &run->hash, a, i);
        }
    }
    v_store_block(tag, v_xor(v_reverse(v_fold(reduce(run->hash.p))), mask));
}

/* The same with that count. */
GCM_FN void last_group(const struct state *s, struct run *run, size_t n, V first, V lengths, bool sealing, bool hashing,
                       uint8_t tag[CQ_TAG_SIZE])
{
    switch ((n + GCM_BLOCK - 1) / GCM_BLOCK / LANES / STEP) {
    case 0:
        last_blocks(s, run, n, 1 * STEP, first, lengths, sealing, hashing, tag);
        break;
    case 1:
        last_blocks(s, run, n, 2 * STEP, first, lengths, sealing, hashing, tag);
        break;
    case 2:
        last_blocks(s, run, n, 3 * STEP, first, lengths, sealing, hashing, tag);
        break;
    case 3:
        last_blocks(s, run, n, 4 * STEP, first, lengths, sealing, hashing, tag);
        break;
    default:
        last_blocks(s, run, n, 5 * STEP, first, lengths, sealing, hashing, tag);
        break;
    }
}

/* Encrypts or decrypts a record and computes its tag; `sealing` is a constant. */
GCM_FN void crypt(const struct state *s, const uint8_t nonce[CQ_IV_SIZE], const uint8_t *aad, size_t aad_len,
                  const uint8_t *in, size_t n, uint8_t *out, bool sealing, uint8_t tag[CQ_TAG_SIZE])
{
    /* SP 800-38D, section 7.1: J_0 is the nonce and a counter of 1; the text begins with 2. */
    const V first = v_spread(v_block((uint64_t)cq_get32(nonce + 8) << 32 | 1, cq_get64(nonce)));
    const V lengths = v_spread(v_block((uint64_t)n * 8, (uint64_t)aad_len * 8));
    struct run run = {.low = 2, .in = in, .out = out};

    run.counters = v_count(v_count(first, v_spread(v_block(1, 0))), V_INDEX);
    run.hash.blocks = (n + GCM_BLOCK - 1) / GCM_BLOCK + 1;
    hash_aad(s, &run.hash, aad, aad_len);
    /* The ciphertext of a group that is opened is there to be hashed at once; one that is sealed is, a group later. */
    if (!sealing) {
        for (; n >= group_size; n -= group_size)
            whole_group(s, &run, true, run.in);
        last_group(s, &run, n, first, lengths, false, false, tag);
    } else {
        const bool groups = n >= group_size;
        if (groups) {
            whole_group(s, &run, false, NULL);
            for (n -= group_size; n >= group_size; n -= group_size)
                whole_group(s, &run, true, run.out - group_size);
        }
        last_group(s, &run, n, first, lengths, true, groups, tag);
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
    if (!gcm_tags_equal(tag, in + n)) {
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
    cq_wipe(key->state, sizeof(struct state));
    free(key->state);
    key->state = NULL;
}
