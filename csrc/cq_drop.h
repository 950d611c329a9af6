/*
 * Why a packet, a record or a datagram goes no further. Every worker counts its drops by these reasons, and logs none;
 * docs/debugging.md says what each means.
 */
#ifndef CQ_DROP_H
#define CQ_DROP_H

enum cq_drop {
    /* tx: packets from the TUN */
    CQ_DROP_TX_MALFORMED,
    CQ_DROP_TX_NO_ROUTE,
    CQ_DROP_TX_NO_KEY,
    CQ_DROP_TX_NO_ENDPOINT,
    CQ_DROP_TX_TOO_BIG,
    CQ_DROP_TX_SEND_ERROR,
    CQ_DROP_TX_CRYPTO,
    CQ_DROP_TX_QUEUE_LATE,
    CQ_DROP_TX_QUEUE_FULL,
    /* rx: datagrams, records or packets from the network */
    CQ_DROP_RX_SHORT,
    CQ_DROP_RX_HEADER,
    CQ_DROP_RX_UNKNOWN_INDEX,
    CQ_DROP_RX_REPLAY,
    CQ_DROP_RX_AUTH,
    CQ_DROP_RX_KEY_LIMIT,
    CQ_DROP_RX_MALFORMED,
    CQ_DROP_RX_SOURCE,
    CQ_DROP_RX_ACCESS,
    CQ_DROP_RX_CONGESTION,
    CQ_DROP_RX_TUN_WRITE,
    CQ_DROP_RX_TRUNCATED,
    CQ_DROP_RX_CONTROL_QUEUE,
    CQ_DROP_COUNT
};

struct cq_drop_name {
    const char *direction, *reason;
};
extern const struct cq_drop_name cq_drop_names[CQ_DROP_COUNT];

#endif
