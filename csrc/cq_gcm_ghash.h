/*
 * GHASH of cq_gcm_template.h, and a part of it: no include guard, and no other file includes it.
 *
 * GHASH: a block is held with its bytes reversed, as an integer whose lowest bit is the coefficient of x^127. The
 * product of two such integers is that of the polynomials but for a factor x, which is why a power of the hash key
 * H is stored as H^i * x. The blocks of a span are multiplied by falling powers of H, down to H^1, and their sum is
 * reduced once. A record of up to SPAN * GROUP blocks is one span.
 */

/* From a power to the sum of its halves. */
enum { SUMS = sizeof(((struct state *)NULL)->powers) };

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

/* The hash of a record on its way: a sum of products, the row of the power for the next block, how many blocks are to
 * come, the lengths among them, and these. */
struct hash {
    struct product p;
    const uint8_t *power; /* a row of powers */
    size_t blocks;
    V lengths;
    V a; /* the vector that is being multiplied */
};

/* Adds the product of a block and the power in a row. */
GCM_FN void hash_block(struct hash *h, V a, const uint8_t *power)
{
    struct product p = multiply(a, v_load_block(power), v_load_block(power + SUMS));

    h->p = (struct product){v_xor(h->p.lo, p.lo), v_xor(h->p.mi, p.mi), v_xor(h->p.hi, p.hi)};
}

/* Begins a span after the block y, which is `gap` blocks before it or, if that is 0, still to be added to its first.
 * The record's last span begins with its end, the lengths: they are known, and the sum has no order. */
GCM_FN void hash_begin(const struct state *s, struct hash *h, V y, size_t gap)
{
    h->p = (struct product){v_zero(), v_zero(), v_zero()};
    h->power = s->powers[POWERS - SPAN * GROUP];
    if (h->blocks <= SPAN * GROUP + 1) {
        h->power = s->powers[POWERS - h->blocks];
        hash_block(h, h->lengths, s->powers[POWERS - 1]);
    }
    hash_block(h, y, h->power - gap * GCM_BLOCK);
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

GCM_FN void hash_vector(struct hash *h, V a, unsigned i)
{
    const uint8_t *power = h->power + i * sizeof(V);

    h->p.lo = v_add(h->p.lo, v_ll(a, v_load(power)));
    h->p.hi = v_add(h->p.hi, v_hh(a, v_load(power)));
    h->p.mi = v_add(h->p.mi, v_ll(halves_sum(a), v_load(power + SUMS)));
}

/* A group is hashed in steps of one product, so that they can be spread over the rounds of an encryption. */
enum { HASH_STEPS = 3 * WIDTH };

/* The round after which a step is done: the last of them before the last round. */
#define HASH_ROUND(step) (HASH_FROM + (step) * (GCM_ROUNDS - 1 - HASH_FROM) / HASH_STEPS)

GCM_FN void hash_step(struct hash *h, const uint8_t *group, unsigned step)
{
    const unsigned i = step / 3;
    const uint8_t *power = h->power + i * sizeof(V);

    if (step % 3 == 0) {
        h->a = v_reverse(v_load(group + i * sizeof(V)));
        h->p.lo = v_add(h->p.lo, v_ll(h->a, v_load(power)));
    } else if (step % 3 == 1) {
        h->p.hi = v_add(h->p.hi, v_hh(h->a, v_load(power)));
    } else {
        h->p.mi = v_add(h->p.mi, v_ll(halves_sum(h->a), v_load(power + SUMS)));
    }
}

/* After a group; at the end of a span that is not the record's last, another begins. */
GCM_FN void hash_next(const struct state *s, struct hash *h)
{
    h->blocks -= GROUP;
    h->power += group_size;
    if (h->power == (const uint8_t *)s->powers + sizeof s->powers[0] * POWERS)
        hash_begin(s, h, v_fold(reduce(h->p)), 0);
}
