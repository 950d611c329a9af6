/*
 * The data record on the wire, and every limit of the protocol that the data plane keeps.
 *
 *    0      1      2        4                8                       16
 *   | type | lane | flags  | receiver index | counter (64 bit)      | ciphertext ... | tag 16 |
 *
 * Integers are big-endian. The 16 header bytes are the additional data of the AEAD, so nothing in a record is
 * malleable. docs/protocol.md, section 4, is the normative text.
 */
#ifndef CQ_WIRE_H
#define CQ_WIRE_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define CQ_RECORD_TYPE 0x01u
#define CQ_FLAG_VOUCHED 0x0001u /* the sender's kernel vouches for the TCP/UDP checksums inside */
#define CQ_FLAGS_KNOWN CQ_FLAG_VOUCHED

#define CQ_HEADER_SIZE 16u
#define CQ_TAG_SIZE 16u
#define CQ_OVERHEAD (CQ_HEADER_SIZE + CQ_TAG_SIZE)
#define CQ_KEY_SIZE 32u
#define CQ_IV_SIZE 12u
#define CQ_LANE_SECRET_SIZE (CQ_KEY_SIZE + CQ_IV_SIZE) /* key || iv, as the key schedule derives them */
#define CQ_LANES_MAX 64u

/* A datagram whose first byte is at least this is QUIC, any other a record (RFC 9000, 17.2 and 17.3). */
#define CQ_QUIC_FIRST_BYTE 0x40u

/* The first four bits of what comes next in a payload, where it is no IP packet. */
#define CQ_PAYLOAD_PADDING 0u
#define CQ_PAYLOAD_MESSAGE 1u
#define CQ_MESSAGE_HEADER_SIZE 3u /* type, and 16 bits of length */

/* In-band messages; any other is skipped. */
#define CQ_MESSAGE_PATH_PROBE 0x10u
#define CQ_MESSAGE_PATH_ACK 0x11u
#define CQ_MESSAGE_PING 0x12u   /* an empty record is to answer it */
#define CQ_PATH_PROBE_LENGTH 8u /* token */
#define CQ_PATH_ACK_LENGTH 10u  /* token, size of the probe's record (16 bits) */

/* A UDP datagram over IPv4 carries at most 65,507 bytes; with IPv6 and jumbo-free links 65,487 is safe for both. */
#define CQ_SEND_MAX 65487u
#define CQ_DATAGRAM_MAX 65535u

/* Of the tunnel: what every IPv4 host can take (RFC 791), and what one record carries. */
#define CQ_MTU_MIN 576u
#define CQ_MTU_MIN6 1280u /* and what IPv6 relies on (RFC 8200, 5) */
#define CQ_MTU_MAX 65455u

/* The least that the window of replay protection has to cover. */
#define CQ_REPLAY_WINDOW_MIN 8192u

/* RFC 9001, appendix B.1: what AES-256-GCM may protect under one key at an advantage of 2^-57. */
#define CQ_RECORDS_SOFT ((uint64_t)1 << 26)
#define CQ_RECORDS_HARD ((uint64_t)1 << 28)
#define CQ_BLOCKS_SOFT ((uint64_t)1 << 34)
#define CQ_BLOCKS_HARD ((uint64_t)1 << 35)

/* Records that may fail to open under the keys of one epoch, at the same advantage. With AES-256-GCM 2^52 (RFC 9001, 6.6
 * and B.1.2). With ChaCha20-Poly1305 v * (L + 1) / 2^103 (draft-irtf-cfrg-aead-limits), which is 2^-57 at 2^34 for
 * the largest records, of 2^12 blocks; RFC 9001 has 2^36, for smaller ones. */
#define CQ_FORGED_HARD_AES_256_GCM ((uint64_t)1 << 52)
#define CQ_FORGED_HARD_CHACHA20_POLY1305 ((uint64_t)1 << 34)

enum cq_suite { CQ_SUITE_AES_256_GCM = 1, CQ_SUITE_CHACHA20_POLY1305 = 2 };

/* Every function that can fail returns 0 or one of these. */
enum cq_error {
    CQ_OK = 0,
    CQ_E_ARGUMENT = -1,
    CQ_E_MEMORY = -2,
    CQ_E_CRYPTO = -3,    /* libcrypto refused; never the result of a bad tag */
    CQ_E_AUTH = -4,      /* the tag does not verify */
    CQ_E_REPLAY = -5,    /* seen before, or older than the window */
    CQ_E_LIMIT = -6,     /* a hard limit of the key is reached */
    CQ_E_MALFORMED = -7, /* a length or a field that cannot be */
};

struct cq_header {
    uint8_t type;
    uint8_t lane;
    uint16_t flags;
    uint32_t index;
    uint64_t counter;
};

static inline uint16_t cq_get16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }

static inline uint32_t cq_get32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline uint64_t cq_get64(const uint8_t *p) { return (uint64_t)cq_get32(p) << 32 | cq_get32(p + 4); }

static inline void cq_put16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static inline void cq_put32(uint8_t *p, uint32_t v)
{
    cq_put16(p, (uint16_t)(v >> 16));
    cq_put16(p + 2, (uint16_t)v);
}

static inline void cq_put64(uint8_t *p, uint64_t v)
{
    cq_put32(p, (uint32_t)(v >> 32));
    cq_put32(p + 4, (uint32_t)v);
}

static inline struct cq_header cq_wire_read_header(const uint8_t p[CQ_HEADER_SIZE])
{
    struct cq_header h = {
        .type = p[0], .lane = p[1], .flags = cq_get16(p + 2), .index = cq_get32(p + 4), .counter = cq_get64(p + 8)};
    return h;
}

static inline void cq_wire_write_header(uint8_t p[CQ_HEADER_SIZE], const struct cq_header *h)
{
    p[0] = h->type;
    p[1] = h->lane;
    cq_put16(p + 2, h->flags);
    cq_put32(p + 4, h->index);
    cq_put64(p + 8, h->counter);
}

static_assert(CQ_OVERHEAD == 32, "the record overhead is part of the protocol");
static_assert(CQ_MTU_MAX + CQ_OVERHEAD == CQ_SEND_MAX, "a packet of the largest MTU is one record");

#endif
