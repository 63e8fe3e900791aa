/* Every quantity a client may read, from the arrays of a Plant.
 *
 * Rules of this file: plain arithmetic on one device; no register, scale factor or address.  Pointers are to
 * lane 0 of a tile plus the lane; fields lie RT_LANES apart.  The lists below are the only place where these
 * names are listed: the enumerations and what Python sees of them are made from the lists.
 *
 * To add a quantity: name it in RT_QUANTITIES, compute it below, and use its name in sunspec.py.
 */
#ifndef RT_MEASURE_H
#define RT_MEASURE_H
#include <stdint.h>
#include "_fields.h"

/* What a point can show. */
#define RT_QUANTITIES(X) \
    /* At the AC terminals. */ \
    X(power_w) \
    X(power_w_phase) \
    X(apparent_va) \
    X(apparent_va_phase) \
    X(power_factor) \
    X(current_a) \
    X(current_a_phase) \
    X(voltage_v) \
    X(voltage_v_line) \
    X(frequency_hz) \
    X(discharge_wh) \
    X(charge_wh) \
    /* Battery. */ \
    X(battery_w) \
    X(battery_a) \
    X(energy_wh) \
    X(soc_frac) \
    X(soh_frac) \
    X(storage_status) \
    X(charge_status) \
    X(bank_state) \
    X(bank_events) \
    /* States, as SunSpec enumerations and bit fields. */ \
    X(operating) \
    X(inverter_state) \
    X(inverter_state_old) \
    X(grid_connected) \
    X(alarms) \
    X(der_mode) \
    X(pv_connection) \
    X(storage_connection) \
    X(active_controls) \
    X(heartbeat_s) \
    X(heartbeat_s_16) \
    X(enter_delay_s_left) \
    /* Settings. */ \
    X(permit) \
    X(permit_old) \
    X(permit_rvrt_s) \
    X(set_ena) \
    X(set_mode) \
    X(set_w) \
    X(set_rvrt_w) \
    X(set_frac) \
    X(set_rvrt_frac) \
    X(set_rvrt_ena) \
    X(set_rvrt_s) \
    X(set_s_left) \
    X(limit_ena) \
    X(limit_frac) \
    X(limit_rvrt_ena) \
    X(limit_rvrt_frac) \
    X(limit_rvrt_s) \
    X(limit_s_left) \
    X(window_mode) \
    X(window_in_frac) \
    X(window_out_frac) \
    X(window_rvrt_s) \
    X(reserve_frac) \
    X(controller_heartbeat) \
    X(battery_controller_heartbeat) \
    /* At the home's meter. */ \
    X(import_w) \
    X(import_w_phase) \
    X(meter_va) \
    X(meter_power_factor) \
    X(meter_a) \
    X(meter_a_phase) \
    X(grid_v) \
    X(grid_v_line) \
    X(grid_hz) \
    X(import_wh) \
    X(export_wh) \
    X(meter_events)

/* What the registers hold and the plant does not: how a set-point was written, the lengths of timers. */
#define RT_SETTINGS(X) \
    X(set_mode) /* 1: the set-point in force was written in watts, 0: in percent */ \
    X(set_w) /* as written; the plant has the one in force */ \
    X(set_rvrt_w) \
    X(set_frac) \
    X(set_rvrt_frac) \
    X(set_rvrt_s) \
    X(set_armed) /* a revert timer of the set-point was running when last looked at */ \
    X(limit_rvrt_s) \
    X(window_rvrt_s) \
    X(permit_rvrt_s) \
    X(controller_heartbeat) \
    X(battery_controller_heartbeat)

/* Constants of a profile that are needed here. */
#define RT_CONSTANTS(X) \
    X(phases) \
    X(voltage_v) \
    X(frequency_hz) \
    X(battery_v) \
    X(energy_wh_rated)

#define RT_NAME(name) #name,
#define RT_Q(name) QUANTITY_##name,
#define RT_H(name) HELD_##name,
#define RT_K(name) CONSTANT_##name,
enum { RT_QUANTITIES(RT_Q) QUANTITY_COUNT };
enum { RT_SETTINGS(RT_H) HELD_COUNT };
enum { RT_CONSTANTS(RT_K) CONSTANT_COUNT };
static const char *const RT_QUANTITY_NAMES[] = {RT_QUANTITIES(RT_NAME)};
static const char *const RT_SETTING_NAMES[] = {RT_SETTINGS(RT_NAME)};
static const char *const RT_CONSTANT_NAMES[] = {RT_CONSTANTS(RT_NAME)};
#undef RT_NAME
#undef RT_Q
#undef RT_H
#undef RT_K

#define P(name) p[PARAM_##name * RT_LANES]
#define C(name) c[CONTROL_##name * RT_LANES]
#define U(name) u[INPUT_##name * RT_LANES]
#define S(name) s[STATE_##name * RT_LANES]
#define Q(name) q[QUANTITY_##name]
#define H(name) held[HELD_##name]
#define K(name) k[CONSTANT_##name]

#define RT_J_PER_WH 3600.0
#define RT_FLOW_W 1.0 /* below this the cells neither charge nor discharge, for the status points */
#define RT_SQRT_3 1.7320508075688772

static inline double rt_unknown(void)
{
    double zero = 0.0;
    return zero / zero; /* not a number: its register reads "not implemented" */
}

static inline double rt_size(double x) { return x < 0.0 ? -x : x; }

static inline double rt_whole(double x) { return (double)(int64_t)x; } /* of a count of ticks or seconds */

/* Size of a current [A]; unknown when power flows at no voltage. */
static inline double rt_current(double power_w, double voltage_v)
{
    return power_w == 0.0 ? 0.0 : voltage_v > 0.0 ? rt_size(power_w) / voltage_v : rt_unknown();
}

static inline double rt_seconds_left(double ticks)
{
    double whole = rt_whole(ticks / RT_TICKS_PER_S);
    return whole * RT_TICKS_PER_S < ticks ? whole + 1.0 : whole;
}

/* AC terminals and battery. */
static inline void rt_measure_device(
    const double *p, const double *u, const double *s, const double *k, double *q)
{
    int status = (int)S(status);
    double power_w = S(power_w), battery_w = S(battery_w), energy_j = S(energy_j);
    double voltage_v = 0.0, frequency_hz = rt_unknown();

    if (status == STATUS_on_grid || status == STATUS_enter) {
        voltage_v = U(voltage_pu) * K(voltage_v);
        frequency_hz = U(frequency_hz);
    } else if (status == STATUS_island || power_w != 0.0) { /* an empty device that charges has a live bus */
        voltage_v = K(voltage_v);
        frequency_hz = K(frequency_hz);
    }
    Q(power_w) = power_w;
    Q(power_w_phase) = power_w / K(phases);
    Q(apparent_va) = rt_size(power_w);
    Q(apparent_va_phase) = rt_size(power_w) / K(phases);
    Q(power_factor) = power_w < 0.0 ? -1.0 : 1.0;
    Q(voltage_v) = voltage_v;
    Q(voltage_v_line) = voltage_v * RT_SQRT_3;
    Q(frequency_hz) = voltage_v > 0.0 ? frequency_hz : rt_unknown();
    Q(current_a) = rt_current(power_w, voltage_v);
    Q(current_a_phase) = Q(current_a) / K(phases);
    Q(discharge_wh) = S(discharge_j) / RT_J_PER_WH;
    Q(charge_wh) = S(charge_j) / RT_J_PER_WH;
    Q(battery_w) = battery_w;
    Q(battery_a) = battery_w / K(battery_v);
    Q(energy_wh) = energy_j / RT_J_PER_WH;
    Q(soc_frac) = energy_j / P(capacity_j);
    Q(soh_frac) = P(capacity_j) / RT_J_PER_WH / K(energy_wh_rated);
}

/* The grid's side of the transfer switch. */
static inline void rt_measure_meter(const double *u, const double *s, const double *k, double *q)
{
    double import_w = S(import_w), voltage_v = U(voltage_pu) * K(voltage_v);

    Q(import_w) = import_w;
    Q(import_w_phase) = import_w / K(phases);
    Q(meter_va) = rt_size(import_w);
    Q(meter_power_factor) = import_w < 0.0 ? -1.0 : 1.0;
    Q(meter_a) = rt_current(import_w, voltage_v);
    Q(meter_a_phase) = Q(meter_a) / K(phases);
    Q(grid_v) = voltage_v;
    Q(grid_v_line) = voltage_v * RT_SQRT_3;
    Q(grid_hz) = voltage_v > 0.0 ? U(frequency_hz) : rt_unknown();
    Q(import_wh) = S(import_j) / RT_J_PER_WH;
    Q(export_wh) = S(export_j) / RT_J_PER_WH;
    Q(meter_events) = U(grid_good) != 0.0 ? 0.0 : 4.0; /* Power_Failure, bit 2 */
}

/* Operating state as models 701, 101, 122 and 703 show it. */
static inline void rt_measure_inverter(
    const double *p, const double *c, const double *u, const double *s, double *q)
{
    int status = (int)S(status), permit = C(permit) != 0.0;
    int on_grid = status == STATUS_on_grid, enter = status == STATUS_enter, island = status == STATUS_island;
    int transfer = status == STATUS_transfer, running = on_grid || island;
    double left = P(enter_delay_ticks);

    /* OFF 0, STARTING 2, RUNNING 3, FAULT 6, STANDBY 7 */
    Q(inverter_state) = running ? 3.0 : enter ? (permit ? 2.0 : 0.0) : transfer ? 2.0
                        : status == STATUS_overload ? 6.0 : 7.0;
    Q(inverter_state_old) = Q(inverter_state) + 1.0; /* models 101 and 103 count from 1; their 4 is MPPT */
    Q(operating) = running;
    Q(grid_connected) = on_grid;
    Q(der_mode) = on_grid ? 1.0 : island ? 2.0 : 0.0; /* GRID_FOLLOWING, GRID_FORMING */
    /* GRID_DISCONNECT, bit 4: the transfer switch is open.  MANUAL_SHUTDOWN, bit 6: permit service is off. */
    Q(alarms) = (on_grid || enter ? 0.0 : 16.0) + (permit ? 0.0 : 64.0);
    /* CONNECTED 1, AVAILABLE 2, OPERATING 4 */
    Q(pv_connection) = S(pv_w) > 0.0 ? 7.0 : U(pv_w_available) > 0.0 ? 2.0 : 0.0;
    Q(storage_connection) = running ? 7.0 : enter || transfer ? 3.0 : 0.0;
    Q(active_controls) = C(set_ena) != 0.0 || C(limit_ena) != 0.0; /* FixedW, bit 0 */
    Q(heartbeat_s) = rt_whole(S(elapsed_ticks) / RT_TICKS_PER_S);
    /* 65535 would mean "not implemented". */
    Q(heartbeat_s_16) = Q(heartbeat_s) - 65535.0 * rt_whole(Q(heartbeat_s) / 65535.0);
    if (on_grid)
        left = 0.0;
    else if (enter && permit)
        left -= S(timer_ticks);
    else if (island)
        left -= S(good_ticks);
    Q(enter_delay_s_left) = rt_seconds_left(left > 0.0 ? left : 0.0);
}

/* Battery state as models 713, 124 and 802 show it. */
static inline void rt_measure_battery(const double *p, const double *s, double *q)
{
    int status = (int)S(status), empty = status == STATUS_empty;
    double cells_w = S(battery_w) - S(standby_w_dc), energy_j = S(energy_j);

    Q(storage_status) = empty; /* OK 0, WARNING 1 */
    /* EMPTY 2, DISCHARGING 3, CHARGING 4, FULL 5, HOLDING 6 */
    Q(charge_status) = cells_w > RT_FLOW_W ? 3.0 : cells_w < -RT_FLOW_W ? 4.0
                       : energy_j <= P(energy_j_min) ? 2.0 : energy_j >= P(energy_j_max) ? 5.0 : 6.0;
    /* CONNECTED 3, STANDBY 4, SOC PROTECTION 5 */
    Q(bank_state) = status == STATUS_on_grid || status == STATUS_island ? 3.0 : empty ? 5.0 : 4.0;
    Q(bank_events) = empty ? 8192.0 : 0.0; /* UNDER_SOC_MIN_ALARM, bit 13 */
}

/* Settings: the plant's where it has them, else as they were written. */
static inline void rt_measure_settings(const double *p, const double *c, double *held, double *q)
{
    double rated_w = P(power_w_discharge_max);

    if (H(set_armed) != 0.0 && C(set_rvrt_ticks) == 0.0) {
        H(set_armed) = 0.0;
        if (C(set_w) == C(set_rvrt_w) && C(set_ena) == C(set_rvrt_ena)) {
            /* Reverted, not cancelled: the set-point that is not in force reverts with the other. */
            H(set_w) = H(set_rvrt_w);
            H(set_frac) = H(set_rvrt_frac);
        }
    }
    if (H(set_mode) != 0.0) {
        H(set_w) = C(set_w);
        H(set_rvrt_w) = C(set_rvrt_w);
    } else {
        H(set_frac) = C(set_w) / rated_w;
        H(set_rvrt_frac) = C(set_rvrt_w) / rated_w;
    }
    Q(permit) = C(permit);
    Q(permit_old) = C(permit);
    Q(permit_rvrt_s) = H(permit_rvrt_s);
    Q(set_ena) = C(set_ena);
    Q(set_mode) = H(set_mode);
    Q(set_w) = H(set_w);
    Q(set_rvrt_w) = H(set_rvrt_w);
    Q(set_frac) = H(set_frac);
    Q(set_rvrt_frac) = H(set_rvrt_frac);
    Q(set_rvrt_ena) = C(set_rvrt_ena);
    Q(set_rvrt_s) = H(set_rvrt_s);
    Q(set_s_left) = rt_seconds_left(C(set_rvrt_ticks));
    Q(limit_ena) = C(limit_ena);
    Q(limit_frac) = C(limit_frac);
    Q(limit_rvrt_ena) = C(limit_rvrt_ena);
    Q(limit_rvrt_frac) = C(limit_rvrt_frac);
    Q(limit_rvrt_s) = H(limit_rvrt_s);
    Q(limit_s_left) = rt_seconds_left(C(limit_rvrt_ticks));
    Q(window_mode) = C(window_in_ena) + 2.0 * C(window_out_ena);
    Q(window_in_frac) = C(window_in_frac);
    Q(window_out_frac) = C(window_out_frac);
    Q(window_rvrt_s) = H(window_rvrt_s);
    Q(reserve_frac) = C(reserve_frac);
    Q(controller_heartbeat) = H(controller_heartbeat);
    Q(battery_controller_heartbeat) = H(battery_controller_heartbeat);
}

static inline void rt_measure(
    const double *p, const double *c, const double *u, const double *s, const double *k, double *held,
    double *q)
{
    rt_measure_device(p, u, s, k, q);
    rt_measure_meter(u, s, k, q);
    rt_measure_inverter(p, c, u, s, q);
    rt_measure_battery(p, s, q);
    rt_measure_settings(p, c, held, q);
}

#undef P
#undef C
#undef U
#undef S
#undef Q
#undef H
#undef K
#endif
