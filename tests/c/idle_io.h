/*
 * In place of csrc/cq_io.c, for programs that drive the loops themselves, without a kernel, a clock or threads: what
 * does nothing. The program has cq_io_send, cq_io_send_each, cq_io_tun_read and cq_io_tun_write of its own.
 */
#ifndef IDLE_IO_H
#define IDLE_IO_H

#include <stdlib.h>

#include "cq_io.h"

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
int cq_io_wait(const int *fds, size_t count, int wake, int timeout_ms)
{
    return (void)fds, (void)count, (void)wake, (void)timeout_ms, 0;
}
void cq_io_wait_writable(int fd, int timeout_ms) { (void)fd, (void)timeout_ms; }
void cq_io_pause(int ms) { (void)ms; }
void cq_io_wake(int wake) { (void)wake; }
void cq_io_set_whole(int fd, int version, bool whole) { (void)fd, (void)version, (void)whole; }
unsigned cq_io_max_segments(void) { return 64; }
uint64_t cq_io_now_ns(void) { return 1; }

#endif
