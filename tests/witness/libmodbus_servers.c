/* libmodbus as its users run it, for the table of malformed inputs: one server per row, each in a thread.
 *
 *   libmodbus_servers tcp COUNT      COUNT servers, each the select loop of libmodbus' own examples
 *   libmodbus_servers rtu PATH...    one server per serial port, 115200 8N1
 *
 * Unit 1 has 200 registers, of which register i holds 0x1000 + i, as holding and as input registers, 200 coils
 * of which every third is on, and 200 inputs of which every fifth is.  Prints {"ports": [...], "version": "..."}
 * and serves until it is killed.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <modbus/modbus.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ROOM = 200, SERVERS_MAX = 512, BAUD = 115200 };

typedef struct {
    modbus_t *modbus;
    modbus_mapping_t *map;
    int listener;
    pthread_t thread;
} server_t;

static server_t servers[SERVERS_MAX];

static modbus_mapping_t *new_map(void)
{
    modbus_mapping_t *map = modbus_mapping_new(ROOM, ROOM, ROOM, ROOM);
    for (int i = 0; map != NULL && i < ROOM; i++) {
        map->tab_registers[i] = map->tab_input_registers[i] = (uint16_t)(0x1000 + i);
        map->tab_bits[i] = i % 3 == 0;
        map->tab_input_bits[i] = i % 5 == 0;
    }
    return map;
}

static int port_of(int fd)
{
    struct sockaddr_in here = {0};
    socklen_t length = sizeof here;
    return getsockname(fd, (struct sockaddr *)&here, &length) < 0 ? 0 : ntohs(here.sin_port);
}

static void *serve_tcp(void *argument)
{
    server_t *server = argument;
    unsigned char query[MODBUS_TCP_MAX_ADU_LENGTH];
    fd_set watched, ready;
    int highest = server->listener;
    FD_ZERO(&watched);
    FD_SET(server->listener, &watched);
    for (;;) {
        ready = watched;
        if (select(highest + 1, &ready, NULL, NULL, NULL) < 0)
            return NULL;
        for (int fd = 0; fd <= highest; fd++) {
            if (!FD_ISSET(fd, &ready))
                continue;
            if (fd == server->listener) {
                int peer = modbus_tcp_accept(server->modbus, &server->listener);
                if (peer < 0)
                    continue;
                FD_SET(peer, &watched);
                if (peer > highest)
                    highest = peer;
                continue;
            }
            modbus_set_socket(server->modbus, fd);
            int size = modbus_receive(server->modbus, query);
            if (size > 0)
                modbus_reply(server->modbus, query, size, server->map);
            else if (size < 0) {
                FD_CLR(fd, &watched); /* before the number can be given to another thread's connection */
                close(fd);
            }
        }
    }
}

static void *serve_rtu(void *argument)
{
    server_t *server = argument;
    unsigned char query[MODBUS_RTU_MAX_ADU_LENGTH];
    for (;;) {
        int size = modbus_receive(server->modbus, query);
        if (size > 0)
            modbus_reply(server->modbus, query, size, server->map);
        else if (size < 0 && (errno == EBADF || errno == EIO))
            return NULL;
    }
}

int main(int argc, char **argv)
{
    int tcp = argc == 3 && strcmp(argv[1], "tcp") == 0;
    if (!tcp && !(argc > 2 && strcmp(argv[1], "rtu") == 0)) {
        fprintf(stderr, "libmodbus_servers: wrong usage, see the head of libmodbus_servers.c\n");
        return 2;
    }
    int count = tcp ? atoi(argv[2]) : argc - 2;
    if (count < 1 || count > SERVERS_MAX) {
        fprintf(stderr, "libmodbus_servers: 1 to %d servers\n", SERVERS_MAX);
        return 2;
    }
    for (int k = 0; k < count; k++) {
        server_t *server = &servers[k];
        server->map = new_map();
        server->modbus = tcp ? modbus_new_tcp("127.0.0.1", 0) : modbus_new_rtu(argv[2 + k], BAUD, 'N', 8, 1);
        if (server->modbus == NULL || server->map == NULL)
            return 1;
        if (tcp)
            server->listener = modbus_tcp_listen(server->modbus, 16);
        else
            modbus_set_slave(server->modbus, 1);
        if (tcp ? server->listener < 0 : modbus_connect(server->modbus) < 0) {
            fprintf(stderr, "libmodbus_servers: %s\n", modbus_strerror(errno));
            return 1;
        }
    }
    printf("{\"version\": \"%u.%u.%u\", \"ports\": [", libmodbus_version_major, libmodbus_version_minor,
           libmodbus_version_micro);
    for (int k = 0; k < count; k++)
        printf("%s%d", k ? ", " : "", tcp ? port_of(servers[k].listener) : 0);
    printf("]}\n");
    fflush(stdout);
    for (int k = 0; k < count; k++)
        if (pthread_create(&servers[k].thread, NULL, tcp ? serve_tcp : serve_rtu, &servers[k]) != 0)
            return 1;
    pause();
    return 0;
}
