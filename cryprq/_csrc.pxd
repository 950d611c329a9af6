# Extern declarations of csrc/, and nothing else.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "<stdatomic.h>" nogil:
    pass


cdef extern from "cq_wire.h" nogil:
    enum:
        CQ_OK
        CQ_E_ARGUMENT
        CQ_E_MEMORY
        CQ_E_CRYPTO
        CQ_LANE_SECRET_SIZE
        CQ_LANES_MAX
        CQ_MTU_MIN
        CQ_MTU_MAX
        CQ_SUITE_AES_256_GCM
        CQ_SUITE_CHACHA20_POLY1305

    const uint64_t CQ_RECORDS_SOFT
    const uint64_t CQ_BLOCKS_SOFT


cdef extern from "cq_vnet.h" nogil:
    enum:
        CQ_GSO_TCPV4
        CQ_GSO_TCPV6
        CQ_GSO_UDP_L4


cdef extern from "cq_wipe.h" nogil:
    void cq_wipe(void *p, size_t n)


cdef extern from "cq_scrub.h" nogil:
    void cq_scrub_deep()


cdef extern from "cq_aead.h" nogil:
    ctypedef struct cq_aead_ops "const struct cq_aead_ops":
        const char *name
        uint8_t suite

    int cq_aead_cpu_has_aes()
    cq_aead_ops *cq_aead_backends(uint8_t suite, unsigned index)
    cq_aead_ops *cq_aead_select(uint8_t suite)


cdef extern from "cq_route.h" nogil:
    enum:
        CQ_ROUTE_NONE

    cdef struct cq_route_entry:
        uint8_t family
        uint8_t prefix
        uint8_t addr[16]
        uint32_t value


cdef extern from "cq_epoch.h" nogil:
    cdef struct cq_limits:
        uint64_t records_soft
        uint64_t records_hard
        uint64_t blocks_soft
        uint64_t blocks_hard
        uint64_t forged_soft
        uint64_t forged_hard

    cdef struct cq_epoch_params:
        uint32_t rx_index
        uint32_t tx_index
        uint32_t number
        uint8_t suite
        uint8_t tx_lanes
        uint8_t rx_lanes
        const uint8_t *tx_secrets
        const uint8_t *rx_secrets
        uint64_t expires_ns
        cq_limits limits

    cdef struct cq_lane_tx:
        uint64_t counter

    cdef struct cq_lane_rx:
        uint64_t records

    cdef struct cq_epoch:
        uint8_t tx_lanes
        uint8_t rx_lanes
        cq_lane_tx *tx
        cq_lane_rx *rx

    cq_limits cq_epoch_default_limits()
    cq_epoch *cq_epoch_new(const cq_epoch_params *params, int *error)
    void cq_epoch_free(cq_epoch *epoch)
    uint64_t cq_epoch_arrived(cq_epoch *epoch, uint64_t *lost)


cdef extern from "cq_endpoint.h" nogil:
    enum:
        CQ_GROUPS_MAX
        CQ_SOURCE_PINNED

    cdef struct cq_address:
        uint8_t host[16]
        uint32_t scope
        uint16_t port
        uint8_t family

    cdef struct cq_endpoint:
        cq_address remote
        uint8_t local[16]
        uint32_t local_scope
        uint16_t source
        uint16_t group

    cdef struct cq_shared_endpoint:
        pass

    uint32_t cq_endpoint_read(cq_shared_endpoint *shared, cq_endpoint *out)
    void cq_endpoint_write(cq_shared_endpoint *shared, const cq_endpoint *value)


cdef extern from "cq_io.h" nogil:
    void cq_io_wake(int wake)
    uint64_t cq_io_now_ns()


cdef extern from "cq_path.h" nogil:
    cdef struct cq_path:
        uint32_t whole_max
        uint64_t last_large_ns
        uint64_t round_trip_ns

    uint64_t cq_path_take(cq_path *path)


cdef extern from "cq_lane.h" nogil:
    cdef struct cq_lane_ports:
        pass

    uint16_t cq_lane_port(cq_lane_ports *ports, size_t lane, uint32_t endpoint, uint64_t now_ns)


cdef extern from "cq_table.h" nogil:
    cdef struct cq_peer:
        cq_shared_endpoint endpoint
        uint64_t segment_off_until_ns
        cq_path path
        uint32_t mtu
        uint32_t mtu_told
        bint ecn
        bint lanes_apart
        bint lanes_spread
        cq_lane_ports *lanes
        uint64_t keyless_ns
        uint64_t lost_ns
        uint64_t rx_packets
        uint64_t rx_bytes
        uint64_t last_rx_ns
        uint64_t tx_packets
        uint64_t tx_bytes
        uint64_t last_tx_ns
        uint64_t last_tx_data_ns

    cdef struct cq_slot:
        cq_epoch *epoch
        cq_peer *peer

    cdef struct cq_table:
        pass

    cdef struct cq_tables:
        cq_table *current
        size_t live_epochs

    cq_slot *cq_table_find(const cq_table *table, uint32_t rx_index)
    int cq_table_add_peer(cq_tables *t, uint32_t *handle)
    int cq_table_remove_peer(cq_tables *t, uint32_t handle)
    int cq_table_set_routes(cq_tables *t, const cq_route_entry *entries, size_t count)
    int cq_table_change_routes(cq_tables *t, const cq_route_entry *changes, size_t count)
    int cq_table_install(cq_tables *t, uint32_t handle, cq_epoch *epoch)
    int cq_table_activate(cq_tables *t, uint32_t rx_index)
    int cq_table_promote(cq_tables *t, uint32_t rx_index)
    int cq_table_remove(cq_tables *t, uint32_t rx_index)
    cq_peer *cq_table_peer(cq_tables *t, uint32_t handle)
    int cq_table_spread_lanes(cq_peer *peer, bint spread)
    cq_lane_ports *cq_table_lanes_of(cq_peer *peer)
    void cq_table_reclaim(cq_tables *t)


cdef extern from "cq_ring.h" nogil:
    enum:
        CQ_RING_ENTRIES

    cdef struct cq_ring_entry:
        cq_endpoint from_ "from"
        uint32_t length
        uint8_t data[1]


cdef extern from "cq_worker.h" nogil:
    enum:
        CQ_BUSY_POLL_US_MAX
        CQ_DROP_COUNT
        CQ_EVENT_FIRST_RECORD
        CQ_EVENT_ROTATE_DUE
        CQ_EVENT_ENDPOINT_MOVED
        CQ_EVENT_KEY_EXPIRED
        CQ_EVENT_PROBE_ACKED
        CQ_EVENT_RECORD_REFUSED
        CQ_EVENT_FORGED

    cdef struct cq_drop_name:
        const char *direction
        const char *reason

    const cq_drop_name cq_drop_names[]

    ctypedef enum cq_drop "enum cq_drop":
        pass

    cdef struct cq_worker_options:
        size_t workers
        const int *tun_fds
        size_t groups
        const int *udp_fds
        int families[9]
        bint lane_ports
        size_t dial_group
        size_t mtu
        uint8_t outer_class "class"
        bint dscp_inherit
        bint vnet_hdr
        bint tso4
        bint tso6
        bint uso
        bint udp_segment
        bint udp_gro
        bint coalesce
        bint packing
        uint64_t busy_poll_ns

    cdef struct cq_worker_shared:
        cq_worker_options options
        cq_tables tables
        int event_fd
        bint *segment_refused
        uint32_t merge_refused
        int failure
        const char *failure_what


cdef extern from "cq_icmp.h" nogil:
    enum:
        CQ_ICMP_REASONS

    ctypedef enum cq_icmp_reason "enum cq_icmp_reason":
        pass


cdef extern from "cq_answer.h" nogil:
    enum:
        CQ_ANSWER_RESULTS

    ctypedef enum cq_answer_result "enum cq_answer_result":
        pass

    const char *const cq_answer_reasons[]
    const char *const cq_answer_results[]


cdef extern from "cq_plane.h" nogil:
    cdef struct cq_plane_event:
        uint32_t peer
        uint32_t rx_index
        uint32_t flags

    cdef struct cq_plane:
        cq_worker_shared shared

    cq_plane *cq_plane_new(const cq_worker_options *options)
    int cq_plane_start(cq_plane *plane)
    void cq_plane_stop(cq_plane *plane)
    void cq_plane_free(cq_plane *plane)
    int cq_plane_send_empty(cq_plane *plane, uint32_t rx_index)
    int cq_plane_send_ping(cq_plane *plane, uint32_t rx_index)
    void cq_plane_sockets_replaced(cq_plane *plane)
    int cq_plane_send_probe(cq_plane *plane, uint32_t rx_index, uint64_t token, uint32_t size)
    size_t cq_plane_events(cq_plane *plane, cq_plane_event *events, size_t max)
    void cq_plane_clear_event_fd(cq_plane *plane)
    const cq_ring_entry *cq_plane_ring_peek(cq_plane *plane, size_t worker)
    void cq_plane_ring_pop(cq_plane *plane, size_t worker)
    void cq_plane_inject(cq_plane *plane, uint8_t *data, size_t length, const cq_endpoint *from_)
    uint64_t cq_plane_drop_count(cq_plane *plane, cq_drop drop)
    uint64_t cq_plane_marks_of_queues(cq_plane *plane)
    uint64_t cq_plane_marks_of_paths(cq_plane *plane)
    uint64_t cq_plane_answer_count(cq_plane *plane, cq_icmp_reason reason, cq_answer_result result)


cdef extern from "cq_bench.h" nogil:
    ctypedef enum cq_bench_op "enum cq_bench_op":
        CQ_BENCH_SEAL
        CQ_BENCH_OPEN
        CQ_BENCH_REPLAY
        CQ_BENCH_ROUTE4
        CQ_BENCH_ROUTE6
        CQ_BENCH_SPLIT
        CQ_BENCH_COALESCE

    int cq_bench_run(cq_bench_op op, cq_aead_ops *ops, size_t size, unsigned count, double *ns)
