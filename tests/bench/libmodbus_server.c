/* libmodbus as its users run it for many clients: the select loop of its own manual, over one map of registers.
 *
 *   libmodbus_server IMAGE BASE
 *
 * IMAGE is a file of registers, two bytes each, big-endian; BASE is the address of the first.  Prints its port
 * and serves on loopback until it is killed.
 */
#include <arpa/inet.h>
#include <modbus/modbus.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

static unsigned char image[1 << 17];

static int port_of(int fd)
{
    struct sockaddr_in here = {0};
    socklen_t length = sizeof here;
    return getsockname(fd, (struct sockaddr *)&here, &length) < 0 ? 0 : ntohs(here.sin_port);
}

int main(int argc, char **argv)
{
    FILE *file = argc == 3 ? fopen(argv[1], "rb") : NULL;
    unsigned char query[MODBUS_TCP_MAX_ADU_LENGTH];
    fd_set watched, ready;
    if (file == NULL)
        return 2;
    int registers = (int)fread(image, 2, sizeof image / 2, file);
    fclose(file);
    modbus_t *modbus = modbus_new_tcp("127.0.0.1", 0);
    modbus_mapping_t *map =
        modbus_mapping_new_start_address(0, 0, 0, 0, (unsigned)atoi(argv[2]), (unsigned)registers, 0, 0);
    if (modbus == NULL || map == NULL)
        return 1;
    for (int k = 0; k < registers; k++)
        map->tab_registers[k] = (uint16_t)(image[2 * k] << 8 | image[2 * k + 1]);
    int listener = modbus_tcp_listen(modbus, 256), highest = listener;
    if (listener < 0)
        return 1;
    printf("%d\n", port_of(listener));
    fflush(stdout);
    FD_ZERO(&watched);
    FD_SET(listener, &watched);
    for (;;) {
        ready = watched;
        if (select(highest + 1, &ready, NULL, NULL, NULL) < 0)
            return 1;
        for (int fd = 0; fd <= highest; fd++) {
            if (!FD_ISSET(fd, &ready))
                continue;
            if (fd == listener) {
                int peer = modbus_tcp_accept(modbus, &listener), one = 1;
                setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* or Nagle's delay is measured */
                FD_SET(peer, &watched);
                if (peer > highest)
                    highest = peer;
                continue;
            }
            modbus_set_socket(modbus, fd);
            int size = modbus_receive(modbus, query);
            if (size > 0)
                modbus_reply(modbus, query, size, map);
            else if (size < 0) {
                close(fd);
                FD_CLR(fd, &watched);
            }
        }
    }
}
