#include "cq_drop.h"

const struct cq_drop_name cq_drop_names[CQ_DROP_COUNT] = {
    [CQ_DROP_TX_MALFORMED] = {"tx", "malformed"},
    [CQ_DROP_TX_NO_ROUTE] = {"tx", "no_route"},
    [CQ_DROP_TX_NO_KEY] = {"tx", "no_key"},
    [CQ_DROP_TX_NO_ENDPOINT] = {"tx", "no_endpoint"},
    [CQ_DROP_TX_TOO_BIG] = {"tx", "too_big"},
    [CQ_DROP_TX_SEND_ERROR] = {"tx", "send_error"},
    [CQ_DROP_TX_CRYPTO] = {"tx", "crypto"},
    [CQ_DROP_TX_QUEUE_LATE] = {"tx", "queue_late"},
    [CQ_DROP_TX_QUEUE_FULL] = {"tx", "queue_full"},
    [CQ_DROP_RX_SHORT] = {"rx", "short"},
    [CQ_DROP_RX_HEADER] = {"rx", "bad_header"},
    [CQ_DROP_RX_UNKNOWN_INDEX] = {"rx", "unknown_index"},
    [CQ_DROP_RX_REPLAY] = {"rx", "replay"},
    [CQ_DROP_RX_AUTH] = {"rx", "auth"},
    [CQ_DROP_RX_KEY_LIMIT] = {"rx", "no_key"},
    [CQ_DROP_RX_MALFORMED] = {"rx", "malformed"},
    [CQ_DROP_RX_SOURCE] = {"rx", "source_not_allowed"},
    [CQ_DROP_RX_TUN_WRITE] = {"rx", "tun_write"},
    [CQ_DROP_RX_TRUNCATED] = {"rx", "truncated"},
    [CQ_DROP_RX_CONTROL_QUEUE] = {"rx", "control_queue"},
};
