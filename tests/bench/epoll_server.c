/* The least that a Modbus TCP server can do: an epoll loop that answers function 3 from one map of registers.
 *
 *   epoll_server IMAGE BASE
 *
 * IMAGE is a file of registers, two bytes each, big-endian; BASE is the address of the first.  Prints its port
 * and serves on loopback until it is killed.  What costs nothing to check is checked; there are no time-outs, no
 * limits and no other functions: a lower bound for servers, and no server to use.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { IN_MAX = 16384, OUT_MAX = 1 << 20, READY_MAX = 256, FRAME_MAX = 260 };

typedef struct {
    int fd;
    int held;
    unsigned char in[IN_MAX];
} peer_t;

static unsigned char image[1 << 17], out[OUT_MAX];
static int base, registers;

/* Answer one frame; return the size of the reply. */
static int answer(const unsigned char *frame, unsigned char *reply)
{
    int first = (frame[8] << 8 | frame[9]) - base, count = frame[10] << 8 | frame[11], code = 0;
    memcpy(reply, frame, 8);
    if (frame[7] != 3 || frame[4] != 0 || frame[5] != 6)
        code = 1;
    else if (count < 1 || count > 125)
        code = 3;
    else if (first < 0 || first + count > registers)
        code = 2;
    if (code) {
        reply[4] = 0, reply[5] = 3, reply[7] |= 0x80, reply[8] = (unsigned char)code;
        return 9;
    }
    reply[4] = 0, reply[5] = (unsigned char)(3 + 2 * count), reply[8] = (unsigned char)(2 * count);
    memcpy(reply + 9, image + 2 * first, (size_t)(2 * count));
    return 9 + 2 * count;
}

/* Read, answer every whole frame, write once; 0 when the connection is over. */
static int serve(peer_t *peer)
{
    ssize_t got = recv(peer->fd, peer->in + peer->held, (size_t)(IN_MAX - peer->held), 0);
    int taken = 0, made = 0;
    if (got <= 0)
        return 0;
    peer->held += (int)got;
    while (peer->held - taken >= 8) {
        int size = 6 + (peer->in[taken + 4] << 8 | peer->in[taken + 5]);
        if (size < 8 || size > FRAME_MAX)
            return 0;
        if (peer->held - taken < size)
            break;
        made += answer(peer->in + taken, out + made);
        taken += size;
    }
    peer->held -= taken;
    memmove(peer->in, peer->in + taken, (size_t)peer->held);
    return made == 0 || send(peer->fd, out, (size_t)made, MSG_NOSIGNAL) == made;
}

int main(int argc, char **argv)
{
    struct sockaddr_in here = {.sin_family = AF_INET};
    struct rlimit files = {1 << 16, 1 << 16};
    struct epoll_event ready[READY_MAX], event = {.events = EPOLLIN, .data.ptr = NULL};
    socklen_t length = sizeof here;
    FILE *file = argc == 3 ? fopen(argv[1], "rb") : NULL;
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0), epoll_fd = epoll_create1(0);
    if (file == NULL || listener < 0 || epoll_fd < 0)
        return 2;
    registers = (int)fread(image, 2, sizeof image / 2, file);
    fclose(file);
    base = atoi(argv[2]);
    setrlimit(RLIMIT_NOFILE, &files);
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) < 0 || listen(listener, 1024) < 0 ||
        getsockname(listener, (struct sockaddr *)&here, &length) < 0 ||
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event) < 0)
        return 1;
    printf("%d\n", ntohs(here.sin_port));
    fflush(stdout);
    for (;;) {
        int n = epoll_wait(epoll_fd, ready, READY_MAX, -1);
        for (int k = 0; k < n; k++) {
            peer_t *peer = ready[k].data.ptr;
            if (peer == NULL) {
                peer = calloc(1, sizeof *peer);
                peer->fd = accept(listener, NULL, NULL);
                setsockopt(peer->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                event.data.ptr = peer;
                epoll_ctl(epoll_fd, EPOLL_CTL_ADD, peer->fd, &event);
            } else if (!serve(peer)) {
                close(peer->fd);
                free(peer);
            }
        }
    }
}
