/*
 * In place of csrc/cq_io.c, for programs that drive the loops themselves, without a kernel, a clock or threads: what
 * does nothing. The program has cq_io_send, cq_io_send_each, cq_io_tun_read and cq_io_tun_write of its own.
 */
#ifndef IDLE_IO_H
#define IDLE_IO_H

#include <stdlib.h>

#include "cq_io.h"
#include "cq_twin.h"

struct cq_udp_batch {
    int nothing;
};

struct cq_udp_batch *cq_io_batch_new(unsigned count, size_t size)
{
    (void)count;
    (void)size;
    return calloc(1, sizeof(struct cq_udp_batch));
}

void cq_io_batch_free(struct cq_udp_batch *batch) { free(batch); }
int cq_io_receive(int fd, struct cq_udp_batch *batch) { return (void)fd, (void)batch, 0; }
void cq_io_message(struct cq_udp_batch *batch, unsigned i, struct cq_udp_message *m) { (void)batch, (void)i, (void)m; }
bool cq_io_linger(uint64_t until_ns) { return (void)until_ns, false; }
int cq_io_wait_for_room(int fd, int wake, const int *full, unsigned count, int timeout_ms)
{
    return (void)fd, (void)wake, (void)full, (void)count, (void)timeout_ms, 0;
}
uint64_t cq_io_random(void) { return 1; }
int cq_twin_open(int fd) { return (void)fd, -1; }
void cq_twin_close(int fd) { (void)fd; }
int cq_io_wait(const int *fds, size_t count, int wake, int timeout_ms)
{
    return (void)fds, (void)count, (void)wake, (void)timeout_ms, 0;
}
void cq_io_pause(int ms) { (void)ms; }
void cq_io_wake(int wake) { (void)wake; }
void cq_io_set_whole(int fd, int version, bool whole) { (void)fd, (void)version, (void)whole; }
unsigned cq_io_max_segments(void) { return 64; }
uint64_t cq_io_now_ns(void) { return 1; }

#endif
