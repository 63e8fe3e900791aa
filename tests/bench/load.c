/* Load generator: reads holding registers over many Modbus TCP connections from one thread.
 *
 *   load closed PORT CONNECTIONS DEPTH SECONDS UNIT ADDRESS COUNT
 *       each connection sends DEPTH requests at once and the next ones when all replies are there
 *   load paced PORTS RATE SECONDS UNIT ADDRESS COUNT
 *       one connection to each port in the file PORTS (one number a line), RATE requests/s on each, evenly
 *       spread in time
 *
 * Connects, asks once on every connection, prints "ready", and runs one round per line of standard input:
 *   requests=N seconds=S cpu_s=C p50_us=L p99_us=L max_us=L late=K
 * where `late` counts paced requests whose turn came before the reply to the one before.  The headers of all
 * replies are checked; a wrong one, or a connection that ends, ends the program with a message.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { REQUEST = 12, DEPTH_MAX = 64, SAMPLES_MAX = 1 << 22, READY_MAX = 256, PATIENCE_S = 3 };

typedef struct {
    int fd;
    int waiting;      /* replies not yet complete */
    int filled;       /* bytes of them received */
    uint16_t tid;     /* of the next request */
    double sent_s;
    double due_s;     /* paced: when the next request is to go */
    unsigned char *in;
} peer_t;

static peer_t *peers;
static int peer_count, depth, unit, address, count, reply_size, epoll_fd;
static float *sample_us;
static long samples;

static void fail(const char *what)
{
    fprintf(stderr, "load: %s (%s)\n", what, strerror(errno));
    exit(1);
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double cpu_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void dial(peer_t *peer, int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = peer};
    int one = 1;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    peer->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (peer->fd < 0 || connect(peer->fd, (struct sockaddr *)&to, sizeof to) < 0)
        fail("cannot connect");
    setsockopt(peer->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    peer->in = malloc((size_t)DEPTH_MAX * 260);
    if (peer->in == NULL || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, peer->fd, &event) < 0)
        fail("cannot prepare a connection");
}

static void ask(peer_t *peer, int requests, double now)
{
    unsigned char out[REQUEST * DEPTH_MAX];
    for (int k = 0; k < requests; k++) {
        unsigned char *frame = out + REQUEST * k;
        uint16_t tid = peer->tid++;
        const unsigned char body[REQUEST] = {
            tid >> 8, tid & 255, 0, 0, 0, 6, (unsigned char)unit, 3,
            (unsigned char)(address >> 8), (unsigned char)address, (unsigned char)(count >> 8), (unsigned char)count};
        memcpy(frame, body, REQUEST);
    }
    if (send(peer->fd, out, (size_t)(REQUEST * requests), MSG_NOSIGNAL) != REQUEST * requests)
        fail("cannot send");
    peer->sent_s = now;
    peer->waiting = requests;
    peer->filled = 0;
}

/* Read what is there; return 1 when every awaited reply has come. */
static int take(peer_t *peer)
{
    int size = peer->waiting * reply_size;
    ssize_t got = recv(peer->fd, peer->in + peer->filled, (size_t)(size - peer->filled), 0);
    if (got <= 0)
        fail("a server ended a connection");
    peer->filled += (int)got;
    /* A refusal is shorter than the reply that was asked for: look at the first one as soon as it can be seen. */
    if (peer->filled >= 8 && peer->in[7] != 3) {
        fprintf(stderr, "load: function %d answered\n", peer->in[7]);
        exit(1);
    }
    if (peer->filled < size)
        return 0;
    for (int k = 0; k < peer->waiting; k++) {
        const unsigned char *reply = peer->in + k * reply_size;
        uint16_t tid = (uint16_t)(peer->tid - peer->waiting + k);
        if (reply[0] != tid >> 8 || reply[1] != (tid & 255) || reply[5] != reply_size - 6 || reply[6] != unit ||
            reply[7] != 3 || reply[8] != 2 * count) {
            fprintf(stderr, "load: a wrong reply\n");
            exit(1);
        }
    }
    return 1;
}

static void note(const peer_t *peer, double now)
{
    if (samples < SAMPLES_MAX)
        sample_us[samples++] = (float)(1e6 * (now - peer->sent_s));
}

static long closed_round(double seconds)
{
    struct epoll_event ready[READY_MAX];
    double now = now_s(), end = now + seconds;
    long done = 0;
    int busy = peer_count;
    for (int k = 0; k < peer_count; k++)
        ask(&peers[k], depth, now);
    while (busy > 0) {
        int n = epoll_wait(epoll_fd, ready, READY_MAX, 1000 * PATIENCE_S);
        if (n <= 0)
            fail("a server does not answer");
        for (int k = 0; k < n; k++) {
            peer_t *peer = ready[k].data.ptr;
            if (!take(peer))
                continue;
            now = now_s();
            note(peer, now);
            done += peer->waiting;
            peer->waiting = 0;
            if (now < end)
                ask(peer, depth, now);
            else
                busy--;
        }
    }
    return done;
}

/* The peers' turns follow one another, so the next one due is always the next of the ring. */
static long paced_round(double seconds, double rate, long *late)
{
    struct epoll_event ready[READY_MAX];
    double begin = now_s(), end = begin + seconds, now = begin;
    long done = 0;
    int next = 0, busy = 0;
    for (int k = 0; k < peer_count; k++)
        peers[k].due_s = begin + k / (rate * peer_count);
    while (now < end || busy > 0) {
        double due = peers[next].due_s;
        double wait = now >= end ? PATIENCE_S : due > now ? due - now : 0.0;
        struct timespec until = {(time_t)wait, (long)(1e9 * (wait - (double)(time_t)wait))};
        int n = epoll_pwait2(epoll_fd, ready, READY_MAX, &until, NULL);
        if (n == 0 && now >= end)
            fail("a server does not answer");
        now = now_s();
        for (int k = 0; k < n; k++) {
            peer_t *peer = ready[k].data.ptr;
            if (!take(peer))
                continue;
            note(peer, now);
            done++;
            busy--;
            peer->waiting = 0;
        }
        while (now < end && peers[next].due_s <= now) {
            if (peers[next].waiting)
                ++*late;
            else {
                ask(&peers[next], 1, now);
                busy++;
            }
            peers[next].due_s += 1.0 / rate;
            next = (next + 1) % peer_count;
        }
        now = now_s();
    }
    return done;
}

static int by_size(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void dial_ports(const char *name)
{
    FILE *file = fopen(name, "r");
    int port;
    if (file == NULL)
        fail("cannot read the list of ports");
    while (fscanf(file, "%d", &port) == 1) {
        peers = realloc(peers, (size_t)(peer_count + 1) * sizeof *peers);
        peers[peer_count++].fd = port;
    }
    fclose(file);
    for (int k = 0; k < peer_count; k++) {
        port = peers[k].fd;
        memset(&peers[k], 0, sizeof *peers);
        dial(&peers[k], port);
    }
}

int main(int argc, char **argv)
{
    struct rlimit files = {1 << 16, 1 << 16};
    char line[64];
    int paced = argc == 8 && strcmp(argv[1], "paced") == 0, base = paced ? 4 : 5;
    if (!paced && !(argc == 9 && strcmp(argv[1], "closed") == 0)) {
        fprintf(stderr, "load: wrong usage, see the head of load.c\n");
        return 2;
    }
    double seconds = atof(argv[base]), rate = paced ? atof(argv[3]) : 0.0;
    unit = atoi(argv[base + 1]);
    address = atoi(argv[base + 2]);
    count = atoi(argv[base + 3]);
    reply_size = 9 + 2 * count;
    depth = paced ? 1 : atoi(argv[4]);
    if (depth < 1 || depth > DEPTH_MAX || count < 1 || count > 125) {
        fprintf(stderr, "load: depth 1 to %d, count 1 to 125\n", DEPTH_MAX);
        return 2;
    }
    setrlimit(RLIMIT_NOFILE, &files); /* where it may be raised; the connections tell otherwise */
    sample_us = malloc(SAMPLES_MAX * sizeof *sample_us);
    epoll_fd = epoll_create1(0);
    if (sample_us == NULL || epoll_fd < 0)
        fail("cannot begin");
    if (paced)
        dial_ports(argv[2]);
    else {
        peer_count = atoi(argv[3]);
        peers = calloc((size_t)peer_count, sizeof *peers);
        for (int k = 0; k < peer_count; k++)
            dial(&peers[k], atoi(argv[2]));
    }
    for (int k = 0; k < peer_count; k++) {
        ask(&peers[k], 1, now_s());
        while (!take(&peers[k]))
            ;
        peers[k].waiting = 0;
    }
    printf("ready\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL) {
        long late = 0;
        samples = 0;
        double began = now_s(), cpu = cpu_s();
        long done = paced ? paced_round(seconds, rate, &late) : closed_round(seconds);
        double took = now_s() - began, used = cpu_s() - cpu;
        qsort(sample_us, (size_t)samples, sizeof *sample_us, by_size);
        printf("requests=%ld seconds=%.6f cpu_s=%.6f p50_us=%.1f p99_us=%.1f max_us=%.1f late=%ld\n", done, took, used,
               sample_us[samples / 2], sample_us[samples * 99 / 100], sample_us[samples - 1], late);
        fflush(stdout);
    }
    return 0;
}
