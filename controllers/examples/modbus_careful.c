/* The same controller in C: it sells above each home's reserve, over Modbus TCP by libmodbus.
 *
 *   cc -O2 -o modbus_careful modbus_careful.c $(pkg-config --cflags --libs libmodbus) -lm
 *   ridethrough run one-home --level hil --external ./modbus_careful
 *
 * It leaves alone devices without SunSpec models 713 and 704.
 */
#include <errno.h>
#include <math.h>
#include <modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DEVICES_MAX = 500, TEXT_MAX = 1 << 22 };

typedef struct {
    const char *facts; /* of this device, in the inventory */
    modbus_t *link;
    int m704, m713;
} device_t;

static char text[TEXT_MAX];

/* Returns the number behind a key of the inventory. */
static double number(const char *from, const char *key)
{
    const char *place = strstr(from, key);
    return place == NULL ? 0.0 : atof(place + strlen(key) + 3); /* "key": 1 */
}

static double drained_w(const char *f, double power_w)
{
    double x = power_w / number(f, "power_w_nominal");
    double cells_w = power_w + (number(f, "loss_a_w") * x + number(f, "loss_b_w")) * x + number(f, "loss_c_w")
                     + number(f, "standby_w");
    return cells_w + number(f, "ohm_per_w_max") * cells_w * cells_w;
}

/* Returns what the promise needs, whatever the shape of the load (docs/judge.md). */
static double reserve_wh(const char *f)
{
    double full_w = number(f, "power_w_discharge_max"), hours = number(f, "hours_h"), idle_w = drained_w(f, 0.0);
    double share = fmin(number(f, "\"load_w") / full_w, 1.0);
    double drain_w = idle_w + share * (drained_w(f, full_w) - idle_w);
    double wanted_wh = number(f, "soc_frac_floor") * number(f, "\"energy_wh") + drain_w * hours;
    return wanted_wh / (1.0 - number(f, "self_discharge_frac_per_h") * (hours + 1.0 / 60.0));
}

/* Finds where the two models begin; returns 0 when the device has both. */
static int discover(device_t *d)
{
    uint16_t head[2] = {0, 0};
    for (int at = (int)number(d->facts, "base_address") + 2; head[0] != 0xFFFF; at += 2 + head[1]) {
        if (modbus_read_registers(d->link, at, 2, head) != 2)
            return -1;
        d->m704 = head[0] == 704 ? at : d->m704;
        d->m713 = head[0] == 713 ? at : d->m713;
    }
    return d->m704 && d->m713 ? 0 : -1;
}

static int trade(device_t *d, double delay_s, int validity_s)
{
    uint16_t soc[9], timer[3] = {0, 0, (uint16_t)validity_s}, set[4] = {1, 1, 0, 0};
    if ((d->m713 == 0 && discover(d) != 0) || modbus_read_registers(d->link, d->m713, 9, soc) != 9)
        return -1;
    double full_w = number(d->facts, "power_w_discharge_max"), all_wh = number(d->facts, "\"energy_wh");
    double doubt_frac = number(d->facts, "soc_frac_error_max") + number(d->facts, "soc_frac_step") + 0.02;
    double held_wh = soc[4] * pow(10.0, (int16_t)soc[8]) / 100.0 * all_wh;
    double spare_wh = held_wh - doubt_frac * all_wh - reserve_wh(d->facts);
    double safe_w = fmin(full_w, 0.8 * spare_wh * 3600.0 / (validity_s + delay_s + 5.0));
    int32_t power_w = (int32_t)(spare_wh < 0.0 ? -number(d->facts, "power_w_charge_max") : safe_w);
    set[2] = (uint16_t)((uint32_t)power_w >> 16), set[3] = (uint16_t)power_w;
    /* First the timer, then the set-point: nothing is ever in force without an end. */
    return modbus_write_registers(d->link, d->m704 + 30, 3, timer) == 3
           && modbus_write_registers(d->link, d->m704 + 22, 4, set) == 4 ? 0 : -1;
}

int main(void)
{
    static device_t devices[DEVICES_MAX];
    FILE *file = fopen(getenv("RIDETHROUGH_INVENTORY"), "r");
    size_t n = 0, size = file ? fread(text, 1, TEXT_MAX - 1, file) : 0;
    double speed = number(text, "\"speed"), poll_s = number(text, "poll_s"), delay_s = number(text, "delay_s_max");
    for (char *at = text; size && n < DEVICES_MAX && (at = strstr(at, "\"base_address\"")); at++, n++) {
        devices[n] = (device_t){at, modbus_new_tcp("127.0.0.1", (int)number(at, "\"port")), 0, 0};
        modbus_set_slave(devices[n].link, (int)number(at, "\"unit"));
        modbus_set_response_timeout(devices[n].link, 0, (uint32_t)fmax(250000.0, fmin(999999.0, 1e6 * delay_s / speed)));
        modbus_set_error_recovery(devices[n].link, MODBUS_ERROR_RECOVERY_LINK | MODBUS_ERROR_RECOVERY_PROTOCOL);
        modbus_connect(devices[n].link);
    }
    for (; n; usleep((useconds_t)(1e6 * poll_s / speed)))
        for (size_t i = 0; i < n; i++)
            if (trade(&devices[i], delay_s, (int)(3.0 * poll_s)) != 0)
                printf("device %zu: %s\n", i + 1, modbus_strerror(errno)), fflush(stdout);
    return 1;
}
