/* The traffic of the benchmarks: fast enough that the path, not this program, is what gets measured.
 *
 *     traffic tcp-sink  ADDRESS PORT [-c CONNECTIONS]
 *     traffic tcp-blast ADDRESS PORT [-c CONNECTIONS] [-t SECONDS] [-a CONGESTION CONTROL]
 *     traffic udp-sink  ADDRESS PORT [-g]
 *     traffic udp-blast ADDRESS PORT [-t SECONDS] [-s SIZE] [-r RATE] [-c FLOWS] [-g SEGMENTS]
 *     traffic udp-echo  ADDRESS PORT
 *     traffic udp-rtt   ADDRESS PORT [-t SECONDS] [-s SIZE] [-i INTERVAL]
 *
 * A sink or the echo server says "ready" on a line of its own once it listens. All but the echo server end with one
 * JSON object on one line. ADDRESS is numeric, IPv4 or IPv6; SIZE is the UDP payload in bytes; RATE is datagrams a
 * second, 0 for as many as go; INTERVAL is in microseconds. udp-blast -g gives the kernel so many datagrams as one
 * super-packet (UDP_SEGMENT), udp-sink -g takes super-packets (UDP_GRO); without -g both work as most programs do,
 * one datagram a message. FLOWS are source ports, each datagram is of the next one. tcp-blast -a names a congestion
 * control of the kernel, else its connections have the default of their host.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    CHUNK = 256 << 10,   /* bytes of a TCP read or write */
    BATCH = 64,          /* messages of a sendmmsg or recvmmsg */
    DATAGRAM = 65536,    /* no UDP payload is longer */
    FLOWS_MAX = 256,     /* sockets of one program */
    BUFFER = 8 << 20,    /* of a UDP socket: 20 ms without the receiver lose nothing */
    TRIPS_MAX = 1 << 20, /* round trips of one run */
    NAP = 20 * 1000,     /* ns between looks at the clock of a paced sender */
    SILENCE = 2 * 1000,  /* ms after which a sink gives up waiting for the end mark */
    END_MARKS = 5,
};

static const char end_mark[16] = "END OF TRAFFIC.";

struct options {
    struct sockaddr_storage address;
    socklen_t length;
    double seconds;
    double rate;
    long size;
    long count;
    long segments;
    long interval;
    const char *congestion;
};

static _Noreturn void fail(const char *what)
{
    fprintf(stderr, "traffic: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void nap(int64_t ns)
{
    struct timespec time = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
    nanosleep(&time, NULL);
}

static void *allocate(size_t size)
{
    void *memory = calloc(1, size);
    if (memory == NULL)
        fail("memory");
    return memory;
}

/* ---- sockets ---- */

static int open_socket(const struct options *options, int type)
{
    int fd = socket(options->address.ss_family, type, 0);
    int one = 1, size = BUFFER;
    if (fd < 0)
        fail("socket");
    if ((type & 0xf) == SOCK_STREAM) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    } else {
        /* FORCE passes the sysctl's limit, with the right to do so. */
        if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) != 0)
            setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    }
    return fd;
}

static int open_server(const struct options *options, int type)
{
    int fd = open_socket(options, type);
    if (bind(fd, (const struct sockaddr *)&options->address, options->length) != 0)
        fail("bind");
    return fd;
}

static int open_client(const struct options *options, int type)
{
    int fd = open_socket(options, type);
    const char *name = type == SOCK_STREAM ? options->congestion : NULL;
    /* Before it connects: of BBR, once it has begun, the pacing stays, whatever follows it. */
    if (name != NULL && setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, (socklen_t)strlen(name)) != 0)
        fail(name);
    if (connect(fd, (const struct sockaddr *)&options->address, options->length) != 0)
        fail("connect");
    return fd;
}

static void say_ready(void)
{
    puts("ready");
    fflush(stdout);
}

/* ---- TCP ---- */

/* Reads all connections to their ends. */
static void tcp_sink(const struct options *options)
{
    struct pollfd polls[FLOWS_MAX];
    char *buffer = allocate(CHUNK);
    int64_t first = 0, last = 0;
    uint64_t bytes = 0;
    int listener = open_server(options, SOCK_STREAM), left = (int)options->count;

    if (listen(listener, left) != 0)
        fail("listen");
    say_ready();
    for (int i = 0; i < left; i++) {
        polls[i] = (struct pollfd){.fd = accept(listener, NULL, NULL), .events = POLLIN};
        if (polls[i].fd < 0)
            fail("accept");
    }
    while (left > 0) {
        if (poll(polls, (nfds_t)options->count, -1) < 0)
            fail("poll");
        for (int i = 0; i < options->count; i++) {
            if (polls[i].fd < 0 || polls[i].revents == 0)
                continue;
            ssize_t got = recv(polls[i].fd, buffer, CHUNK, MSG_DONTWAIT);
            if (got < 0 && errno == EAGAIN)
                continue;
            if (got <= 0) {
                close(polls[i].fd);
                polls[i].fd = -1;
                left--;
                continue;
            }
            last = now_ns();
            if (first == 0)
                first = last;
            bytes += (uint64_t)got;
        }
    }
    double seconds = (double)(last - first) / 1e9;
    printf("{\"bytes\": %llu, \"seconds\": %.4f, \"bits_per_second\": %.0f}\n", (unsigned long long)bytes, seconds,
           seconds > 0 ? (double)bytes * 8 / seconds : 0);
    free(buffer);
}

static void tcp_blast(const struct options *options)
{
    struct pollfd polls[FLOWS_MAX];
    char *buffer = allocate(CHUNK);
    uint64_t retransmits = 0, spurious = 0;
    int64_t end;

    for (size_t i = 0; i < CHUNK; i++)
        buffer[i] = (char)(i * 2654435761u >> 13); /* nothing that a tunnel could compress */
    for (int i = 0; i < options->count; i++)
        polls[i] = (struct pollfd){.fd = open_client(options, SOCK_STREAM), .events = POLLOUT};
    end = now_ns() + (int64_t)(options->seconds * 1e9);
    while (now_ns() < end) {
        if (poll(polls, (nfds_t)options->count, 100) < 0)
            fail("poll");
        for (int i = 0; i < options->count; i++) {
            if (polls[i].revents && send(polls[i].fd, buffer, CHUNK, MSG_DONTWAIT) < 0 && errno != EAGAIN)
                fail("send");
        }
    }
    for (int i = 0; i < options->count; i++) {
        struct tcp_info info = {0};
        socklen_t length = sizeof(info);
        getsockopt(polls[i].fd, IPPROTO_TCP, TCP_INFO, &info, &length);
        retransmits += info.tcpi_total_retrans;
        spurious += info.tcpi_dsack_dups; /* the receiver had them already */
        close(polls[i].fd);
    }
    printf("{\"flows\": %ld, \"retransmits\": %llu, \"spurious\": %llu}\n", options->count,
           (unsigned long long)retransmits, (unsigned long long)spurious);
    free(buffer);
}

/* ---- UDP one way ---- */

/* The size of the datagrams in a super-packet, or the whole length when it is none. */
static size_t segment_size(struct msghdr *message, size_t length)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO) {
            int size;
            memcpy(&size, CMSG_DATA(c), sizeof(size));
            if (size > 0)
                return (size_t)size;
        }
    }
    return length;
}

/* Counts datagrams until the end mark. The time is from the first datagram to the last, so what the receive buffer
 * still held when the sender stopped does not add to the rate. */
static void udp_sink(const struct options *options)
{
    struct mmsghdr messages[BATCH] = {0};
    struct iovec vectors[BATCH];
    char control[BATCH][CMSG_SPACE(sizeof(int))];
    char *buffers = allocate((size_t)BATCH * DATAGRAM);
    uint64_t datagrams = 0, bytes = 0;
    int64_t first = 0, last = 0;
    int fd = open_server(options, SOCK_DGRAM), on = options->segments > 0, ended = 0;

    setsockopt(fd, IPPROTO_UDP, UDP_GRO, &on, sizeof(on));
    say_ready();
    while (!ended) {
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        for (int i = 0; i < BATCH; i++) {
            vectors[i] = (struct iovec){buffers + (size_t)i * DATAGRAM, DATAGRAM};
            messages[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i],
                                                  .msg_iovlen = 1,
                                                  .msg_control = control[i],
                                                  .msg_controllen = sizeof(control[i])};
        }
        int got = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, NULL);
        if (got < 0 && errno == EAGAIN) {
            if (poll(&wait, 1, first ? SILENCE : -1) == 0)
                break;
            continue;
        }
        if (got < 0)
            fail("recvmmsg");
        for (int i = 0; i < got; i++) {
            size_t length = messages[i].msg_len, size = segment_size(&messages[i].msg_hdr, length);
            if (length == sizeof(end_mark) && memcmp(vectors[i].iov_base, end_mark, sizeof(end_mark)) == 0) {
                ended = 1;
                break;
            }
            last = now_ns();
            if (first == 0)
                first = last;
            datagrams += size ? (length + size - 1) / size : 1;
            bytes += length;
        }
    }
    double seconds = (double)(last - first) / 1e9;
    printf("{\"received\": %llu, \"bytes\": %llu, \"seconds\": %.4f, \"per_second\": %.0f}\n",
           (unsigned long long)datagrams, (unsigned long long)bytes, seconds,
           seconds > 0 ? (double)datagrams / seconds : 0);
    free(buffers);
}

/* Messages of one flow, ready to be sent: all of the same bytes. */
static void fill_messages(struct mmsghdr *messages, struct iovec *vector, const struct options *options)
{
    size_t segments = options->segments > 1 ? (size_t)options->segments : 1;
    vector->iov_len = (size_t)options->size * segments;
    if (options->size <= 0 || vector->iov_len > 65507) {
        errno = EMSGSIZE;
        fail("size");
    }
    vector->iov_base = allocate(vector->iov_len);
    for (int i = 0; i < BATCH; i++)
        messages[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = vector, .msg_iovlen = 1}};
}

static void udp_blast(const struct options *options)
{
    struct mmsghdr messages[BATCH];
    struct iovec vector;
    int fds[FLOWS_MAX], size = (int)options->size, flow = 0;
    uint64_t sent = 0, refused = 0, weight = options->segments > 1 ? (uint64_t)options->segments : 1;

    fill_messages(messages, &vector, options);
    for (int i = 0; i < options->count; i++) {
        fds[i] = open_client(options, SOCK_DGRAM);
        if (weight > 1 && setsockopt(fds[i], IPPROTO_UDP, UDP_SEGMENT, &size, sizeof(size)) != 0)
            fail("UDP_SEGMENT");
    }
    int64_t start = now_ns(), end = start + (int64_t)(options->seconds * 1e9), now;
    while ((now = now_ns()) < end) {
        uint64_t due = BATCH;
        if (options->rate > 0) {
            uint64_t wanted = (uint64_t)((double)(now - start) * options->rate / 1e9);
            if (wanted < sent + refused + weight) {
                nap(NAP);
                continue;
            }
            due = (wanted - sent - refused) / weight;
        }
        if (due > BATCH)
            due = BATCH;
        if (options->count == 1) {
            int done = sendmmsg(fds[0], messages, (unsigned)due, 0);
            *(done > 0 ? &sent : &refused) += weight * (done > 0 ? (uint64_t)done : 1);
            continue;
        }
        for (uint64_t i = 0; i < due; i++, flow = (flow + 1) % (int)options->count)
            *(sendmsg(fds[flow], &messages[0].msg_hdr, 0) > 0 ? &sent : &refused) += weight;
    }
    double seconds = (double)(now - start) / 1e9;
    int fd = fds[0], plain = 0;
    setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &plain, sizeof(plain));
    for (int i = 0; i < END_MARKS; i++) {
        nap(50 * 1000 * 1000); /* what is in queues arrives before */
        if (send(fd, end_mark, sizeof(end_mark), 0) < 0 && errno == ECONNREFUSED)
            break; /* the sink has had its mark, and is gone */
    }
    printf("{\"sent\": %llu, \"refused\": %llu, \"seconds_offered\": %.4f, \"offered\": %.0f}\n",
           (unsigned long long)sent, (unsigned long long)refused, seconds, (double)sent / seconds);
    free(vector.iov_base);
}

/* ---- UDP both ways ---- */

static void udp_echo(const struct options *options)
{
    char *buffer = allocate(DATAGRAM);
    int fd = open_server(options, SOCK_DGRAM);

    say_ready();
    for (;;) { /* until a signal ends it */
        struct sockaddr_storage sender;
        socklen_t length = sizeof(sender);
        ssize_t got = recvfrom(fd, buffer, DATAGRAM, 0, (struct sockaddr *)&sender, &length);
        if (got >= 0)
            sendto(fd, buffer, (size_t)got, 0, (struct sockaddr *)&sender, length);
    }
}

static int compare_times(const void *left, const void *right)
{
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

static void udp_rtt(const struct options *options)
{
    int64_t *times = allocate(TRIPS_MAX * sizeof(*times));
    size_t size = options->size < 8 ? 8 : (size_t)options->size;
    char *out = allocate(size), *in = allocate(DATAGRAM);
    size_t count = 0, lost = 0;
    uint64_t number = 0;
    int fd = open_client(options, SOCK_DGRAM);
    int64_t end = now_ns() + (int64_t)(options->seconds * 1e9), start;

    while ((start = now_ns()) < end && count < TRIPS_MAX) {
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        number++;
        memcpy(out, &number, sizeof(number));
        if (send(fd, out, size, 0) < 0) {
            lost++;
            continue;
        }
        for (;;) {
            if (poll(&wait, 1, 1000) == 0) {
                lost++;
                break;
            }
            ssize_t got = recv(fd, in, DATAGRAM, 0);
            if (got == (ssize_t)size && memcmp(in, out, size) == 0) {
                times[count++] = now_ns() - start;
                break;
            }
        }
        nap(options->interval * 1000);
    }
    if (count == 0) {
        errno = ETIMEDOUT;
        fail("no echo");
    }
    qsort(times, count, sizeof(*times), compare_times);
    printf("{\"count\": %zu, \"lost\": %zu, \"min_us\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f}\n",
           count, lost, (double)times[0] / 1e3, (double)times[count / 2] / 1e3, (double)times[count * 99 / 100] / 1e3,
           (double)times[count - 1] / 1e3);
    free(times);
    free(out);
    free(in);
}

/* ---- command line ---- */

static const struct {
    const char *name;
    void (*run)(const struct options *options);
    const char *flags;
} commands[] = {
    {"tcp-sink", tcp_sink, "c:"},           {"tcp-blast", tcp_blast, "c:t:a:"}, {"udp-sink", udp_sink, "g"},
    {"udp-blast", udp_blast, "t:s:r:c:g:"}, {"udp-echo", udp_echo, ""},         {"udp-rtt", udp_rtt, "t:s:i:"},
};

static void parse_address(struct options *options, const char *text, const char *port)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)&options->address;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&options->address;
    uint16_t number = htons((uint16_t)atoi(port));
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = number;
        options->length = sizeof(*v4);
    } else if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = number;
        options->length = sizeof(*v6);
    } else {
        errno = EINVAL;
        fail(text);
    }
}

int main(int argc, char **argv)
{
    struct options options = {.seconds = 1, .size = 64, .count = 1, .interval = 1000};

    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
    for (size_t i = 0; argc >= 4 && i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(argv[1], commands[i].name) != 0)
            continue;
        parse_address(&options, argv[2], argv[3]);
        for (int flag; (flag = getopt(argc - 3, argv + 3, commands[i].flags)) != -1;) {
            switch (flag) {
            case 'c': options.count = atol(optarg); break;
            case 't': options.seconds = atof(optarg); break;
            case 's': options.size = atol(optarg); break;
            case 'r': options.rate = atof(optarg); break;
            case 'i': options.interval = atol(optarg); break;
            case 'a': options.congestion = optarg; break;
            case 'g': options.segments = optarg ? atol(optarg) : 1; break;
            default: return 2;
            }
        }
        if (options.count < 1 || options.count > FLOWS_MAX) {
            errno = EINVAL;
            fail("-c");
        }
        commands[i].run(&options);
        return 0;
    }
    fprintf(stderr, "usage: traffic COMMAND ADDRESS PORT [FLAGS], see the top of its source\n");
    return 2;
}
