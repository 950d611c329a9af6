/*
 * Another socket at the port of one that there is: what it sends is told from the other's by nobody but the kernel, which
 * gives each a buffer of its own.
 *
 * It is one more member of the group of sockets that share the port (SO_REUSEPORT). It is sent nothing: the group's
 * program names those that were there first (cryprq/linux/sockets.py), by a number that later ones do not change.
 */
#ifndef CQ_TWIN_H
#define CQ_TWIN_H

/* A socket with the address, the TTL, the mark and the options of fragmentation of fd, and a small send buffer. -errno
 * where fd is no such socket, or where there can be none. */
int cq_twin_open(int fd);
void cq_twin_close(int fd); /* -1 is fine */

#endif
