/*
 * The port that each lane of a peer is heard from, where its lanes have ports of their own: what is sent on a lane goes
 * there, so that a network which spreads flows over queues, links or cores by their ports sees one for each lane.
 *
 * The peer's endpoint stays the place that counts: lane 0 has its port, and a lane whose own is not known, or has not
 * been heard for long, goes there. So nothing has to keep the ports of idle lanes alive in NATs.
 */
#ifndef CQ_LANE_H
#define CQ_LANE_H

#include "cq_wire.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* NATs keep a mapping for 30 seconds at the least that is of any use (RFC 4787 asks for two minutes). */
#define CQ_LANE_SECONDS 25u

/* All zeros: none has been heard. Each word is one lane's port, the second in which it was heard, and the number of the
 * endpoint then (cq_endpoint_read): a peer that has moved has other ports. */
struct cq_lane_ports {
    _Atomic uint64_t heard[CQ_LANES_MAX];
};

/* worker: an authentic record came on a lane from a port, beside an endpoint of that number. False, with nothing changed,
 * if the lane had another port there: the peer's NAT has made new mappings, and the endpoint's port is stale, too. */
bool cq_lane_hear(struct cq_lane_ports *ports, uint8_t lane, uint16_t port, uint32_t endpoint, uint64_t now_ns);

/* Where to send on a lane; 0: to the endpoint's own port. */
uint16_t cq_lane_port(struct cq_lane_ports *ports, size_t lane, uint32_t endpoint, uint64_t now_ns);

#endif
