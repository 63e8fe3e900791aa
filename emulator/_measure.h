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
#include <math.h> /* sqrt only */
#include <stdint.h>
#include "_fields.h"

/* What a point can show. */
#define RT_QUANTITIES(X) \
    /* At the AC terminals. */ \
    X(power_w) X(power_w_phase) \
    X(reactive_var) X(reactive_var_phase) \
    X(apparent_va) X(apparent_va_phase) \
    X(power_factor) \
    X(current_a) X(current_a_phase) \
    X(voltage_v) X(voltage_v_line) \
    X(frequency_hz) \
    X(discharge_wh) X(charge_wh) \
    /* Battery. */ \
    X(battery_w) \
    X(battery_v) \
    X(battery_a) \
    X(charge_a_max) X(discharge_a_max) \
    X(cell_v) \
    X(cell_c) \
    X(energy_wh) \
    X(soc_frac) \
    X(soh_frac) \
    X(storage_status) \
    X(charge_status) \
    X(bank_state) \
    X(bank_events) \
    X(strings_connected) \
    X(string_status) \
    X(string_contactors) \
    /* DC ports and PV strings. */ \
    X(ports_w) \
    X(ports_alarmed) \
    X(battery_port_status) \
    X(battery_port_alarms) \
    X(pv_string_w) X(pv_string_wh) \
    X(pv_string_state) \
    X(pv_port_status) \
    /* States, as SunSpec enumerations and bit fields; how warm the cabinet is. */ \
    X(cabinet_c) \
    X(operating) \
    X(inverter_state) \
    X(inverter_state_old) \
    X(grid_connected) \
    X(alarms) \
    X(der_mode) \
    X(throttle_sources) \
    X(pv_connection) X(storage_connection) \
    X(active_controls) \
    X(heartbeat_s) X(heartbeat_s_16) \
    X(enter_delay_s_left) \
    X(volt_var_ref_pu) \
    /* Settings; those of the grid-support functions lie in the image as bytes, see image_grid.py. */ \
    X(permit) X(permit_old) \
    X(permit_rvrt_s) \
    X(operation) \
    X(alarm_reset) \
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
    X(battery_operation) \
    X(battery_inverter_state) \
    /* At the home's meter. */ \
    X(import_w) X(import_w_phase) \
    X(import_var) \
    X(meter_va) \
    X(meter_power_factor) \
    X(meter_a) X(meter_a_phase) \
    X(grid_v) X(grid_v_line) \
    X(grid_hz) \
    X(import_wh) X(export_wh) \
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
    X(operation) /* last command of 715.OpCtl */ \
    X(alarm_reset) \
    X(controller_heartbeat) \
    X(battery_controller_heartbeat) \
    X(battery_inverter_state) /* 802.SetInvState as written */

/* Constants of a profile that are needed here. */
#define RT_CONSTANTS(X) \
    X(phases) \
    X(voltage_v) \
    X(frequency_hz) \
    X(battery_v) \
    X(cell_v) /* mean open-circuit voltage */ \
    X(pv_strings) \
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
#define RT_MILD_C 20.0 /* cells that may not be used are too hot above this, too cold below */
#define RT_SQRT_3 1.7320508075688772
#define RT_CABINET_K 20.0 /* the cabinet over its surroundings at the loss of full power; assumed */

static inline double rt_unknown(void)
{
    double zero = 0.0;
    return zero / zero; /* not a number: its register reads "not implemented" */
}

static inline double rt_size(double x) { return x < 0.0 ? -x : x; }

static inline double rt_least(double a, double b) { return a < b ? a : b; }

static inline double rt_most(double a, double b) { return a > b ? a : b; }

static inline double rt_whole(double x) { return (double)(int64_t)x; } /* of a count of ticks or seconds */

/* Size of a current [A]; unknown when power flows at no voltage. */
static inline double rt_current(double apparent_va, double voltage_v)
{
    return apparent_va == 0.0 ? 0.0 : voltage_v > 0.0 ? apparent_va / voltage_v : rt_unknown();
}

/* Its sign is that of the active power (701.PF). */
static inline double rt_power_factor(double power_w, double apparent_va)
{
    return apparent_va > 0.0 ? power_w / apparent_va : power_w == power_w ? 1.0 : rt_unknown();
}

static inline double rt_seconds_left(double ticks)
{
    double whole = rt_whole(ticks / RT_TICKS_PER_S);
    return whole * RT_TICKS_PER_S < ticks ? whole + 1.0 : whole;
}

/* AC terminals. */
static inline void rt_measure_device(const double *u, const double *s, const double *k, double *q)
{
    int status = (int)S(status);
    double power_w = S(power_w), reactive_var = S(reactive_var);
    double apparent_va = sqrt(power_w * power_w + reactive_var * reactive_var);
    double voltage_v = 0.0, frequency_hz = rt_unknown();

    if (status == STATUS_on_grid || status == STATUS_enter) {
        voltage_v = U(voltage_pu) * K(voltage_v);
        frequency_hz = U(frequency_hz);
    } else if (S(bus_pu) > 0.0) {
        voltage_v = S(bus_pu) * K(voltage_v);
        frequency_hz = S(bus_hz);
    } else if (power_w != 0.0) { /* an empty device that charges has a live bus */
        voltage_v = K(voltage_v);
        frequency_hz = K(frequency_hz);
    }
    Q(power_w) = power_w;
    Q(power_w_phase) = power_w / K(phases);
    Q(reactive_var) = reactive_var;
    Q(reactive_var_phase) = reactive_var / K(phases);
    Q(apparent_va) = apparent_va;
    Q(apparent_va_phase) = apparent_va / K(phases);
    Q(power_factor) = rt_power_factor(power_w, apparent_va);
    Q(voltage_v) = voltage_v;
    Q(voltage_v_line) = voltage_v * RT_SQRT_3;
    Q(frequency_hz) = voltage_v > 0.0 ? frequency_hz : rt_unknown();
    Q(current_a) = rt_current(apparent_va, voltage_v);
    Q(current_a_phase) = Q(current_a) / K(phases);
    Q(discharge_wh) = S(discharge_j) / RT_J_PER_WH;
    Q(charge_wh) = S(charge_j) / RT_J_PER_WH;
}

/* The grid's side of the transfer switch. */
static inline void rt_measure_meter(const double *u, const double *s, const double *k, double *q)
{
    int member = S(status) == STATUS_member; /* beyond the meter lies the community island */
    double import_w = S(import_w), import_var = S(import_var);
    double voltage_v = (member ? S(bus_pu) : U(voltage_pu)) * K(voltage_v);
    double frequency_hz = member ? S(bus_hz) : U(frequency_hz);

    Q(import_w) = import_w;
    Q(import_w_phase) = import_w / K(phases);
    Q(import_var) = import_var;
    Q(meter_va) = sqrt(import_w * import_w + import_var * import_var);
    Q(meter_power_factor) = rt_power_factor(import_w, Q(meter_va));
    Q(meter_a) = rt_current(Q(meter_va), voltage_v);
    Q(meter_a_phase) = Q(meter_a) / K(phases);
    Q(grid_v) = voltage_v;
    Q(grid_v_line) = voltage_v * RT_SQRT_3;
    Q(grid_hz) = voltage_v > 0.0 ? frequency_hz : rt_unknown();
    Q(import_wh) = S(import_j) / RT_J_PER_WH;
    Q(export_wh) = S(export_j) / RT_J_PER_WH;
    Q(meter_events) = U(grid_good) != 0.0 ? 0.0 : 4.0; /* Power_Failure, bit 2 */
}

/* Alarms of 701 and 101, which number them alike. */
static inline double rt_alarms(
    const double *p, const double *c, const double *u, const double *s, int closed)
{
    double v = U(voltage_pu), f = U(frequency_hz);
    int seen = U(grid_good) != 0.0 || U(grid_held) != 0.0; /* a dead grid is not an alarm of its voltage */
    int too_cold_or_hot = P(c_rate_limited) != 0.0 && (S(charge_w_limit) <= 0.0 || S(discharge_w_limit) <= 0.0);
    int hot = S(temp_c) > RT_MILD_C;
    int bits = 0;

    bits |= C(bms_open) != 0.0 ? 1 << 3 : 0;  /* DC_DISCONNECT */
    bits |= closed ? 0 : 1 << 4;              /* GRID_DISCONNECT: the transfer switch is open */
    bits |= C(permit) != 0.0 ? 0 : 1 << 6;    /* MANUAL_SHUTDOWN: permit service is off */
    bits |= too_cold_or_hot && hot ? 1 << 7 : 0;   /* OVER_TEMP */
    bits |= too_cold_or_hot && !hot ? 1 << 13 : 0; /* UNDER_TEMP */
    if (seen) { /* beyond a must-trip limit, whether its time has run out or not */
        bits |= f > C(over_f1_hz) || f > C(over_f2_hz) ? 1 << 8 : 0;    /* OVER_FREQUENCY */
        bits |= f < C(under_f1_hz) || f < C(under_f2_hz) ? 1 << 9 : 0;  /* UNDER_FREQUENCY */
        bits |= v > C(over_v1_pu) || v > C(over_v2_pu) ? 1 << 10 : 0;   /* AC_OVER_VOLT */
        bits |= v < C(under_v1_pu) || v < C(under_v2_pu) ? 1 << 11 : 0; /* AC_UNDER_VOLT */
    }
    return (double)bits;
}

/* What holds the output down now (701.ThrotSrc); while following the grid only. */
static inline double rt_throttle_sources(const double *p, const double *c, const double *u, const double *s)
{
    double output_w = S(power_w) + S(standby_w_ac), rated_w = P(power_w_discharge_max), v = U(voltage_pu);
    double near_w = 1e-9 * rated_w;
    int outside = v < C(calm_low_pu) || v > C(calm_high_pu);
    int bits = 0;

    if (outside && v < C(cease_low_pu))
        bits |= 1 << 7; /* LVRT: momentary cessation */
    if (outside && v > C(cease_high_pu))
        bits |= 1 << 8; /* HVRT */
    if (output_w > 0.0 && C(limit_ena) != 0.0 && output_w >= C(limit_frac) * rated_w - near_w)
        bits |= 1 << 0; /* MAX_W */
    if (S(droop_w) < 0.0)
        bits |= 1 << 5; /* FREQ_WATT */
    if (C(volt_watt_ena) != 0.0 && S(volt_watt_w) < rated_w && output_w >= S(volt_watt_w) - near_w)
        bits |= 1 << 10; /* VOLT_WATT */
    return (double)bits;
}

/* Cabinet of the inverter; its rise follows the converter's loss at once, its heat capacity is not modelled. */
static inline double rt_cabinet(const double *p, const double *u, const double *s)
{
    double rated_w = P(power_w_discharge_max);
    double loss_w = (P(loss_a_per_w) * rated_w + P(loss_b_frac)) * rated_w + P(loss_c_w);

    return loss_w > 0.0 ? U(ambient_c) + RT_CABINET_K * (S(loss_w) / loss_w) : U(ambient_c);
}

/* Which settings shape the output now (122.StActCtl). */
static inline double rt_active_controls(const double *c)
{
    int bits = 0;

    bits |= C(set_ena) != 0.0 || C(limit_ena) != 0.0 ? 1 << 0 : 0; /* FixedW */
    bits |= C(var_ena) != 0.0 ? 1 << 1 : 0;                        /* FixedVAR */
    bits |= (C(pf_ena) != 0.0 && C(pf_var_per_w) != 0.0)
                || (C(pf_abs_ena) != 0.0 && C(pf_abs_var_per_w) != 0.0) ? 1 << 2 : 0; /* FixedPF */
    bits |= C(volt_var_ena) != 0.0 ? 1 << 3 : 0;                   /* Volt-VAr */
    bits |= C(droop_ena) != 0.0 ? 1 << 4 : 0;                      /* Freq-Watt-Param */
    bits |= C(volt_watt_ena) != 0.0 ? 1 << 10 : 0;                 /* Volt-Watt */
    return (double)bits;
}

/* Operating state as models 701, 101, 122 and 703 show it. */
static inline void rt_measure_inverter(
    const double *p, const double *c, const double *u, const double *s, double *q)
{
    int status = (int)S(status), permit = C(permit) != 0.0;
    int on_grid = status == STATUS_on_grid, enter = status == STATUS_enter;
    int forms = status == STATUS_island || status == STATUS_member;
    int changes = status == STATUS_transfer || status == STATUS_rejoin, running = on_grid || forms;
    double left = C(enter_delay_ticks);

    /* OFF 0, STARTING 2, RUNNING 3, FAULT 6, STANDBY 7 */
    Q(inverter_state) = running ? 3.0 : enter ? (permit ? 2.0 : 0.0) : changes ? 2.0
                        : status == STATUS_overload ? 6.0 : 7.0;
    Q(inverter_state_old) = Q(inverter_state) + 1.0; /* models 101 and 103 count from 1; their 4 is MPPT */
    Q(cabinet_c) = rt_cabinet(p, u, s);
    Q(operating) = running;
    Q(grid_connected) = on_grid;
    Q(der_mode) = on_grid ? 1.0 : forms ? 2.0 : 0.0; /* GRID_FOLLOWING, GRID_FORMING */
    Q(alarms) = rt_alarms(p, c, u, s, on_grid || enter);
    Q(throttle_sources) = on_grid ? rt_throttle_sources(p, c, u, s) : 0.0;
    /* CONNECTED 1, AVAILABLE 2, OPERATING 4 */
    Q(pv_connection) = S(pv_w) > 0.0 ? 7.0 : U(pv_w_available) > 0.0 ? 2.0 : 0.0;
    Q(storage_connection) = C(bms_open) != 0.0 ? 0.0 : running ? 7.0 : enter || changes ? 3.0 : 0.0;
    Q(active_controls) = rt_active_controls(c);
    Q(heartbeat_s) = rt_whole(S(elapsed_ticks) / RT_TICKS_PER_S);
    /* 65535 would mean "not implemented". */
    Q(heartbeat_s_16) = Q(heartbeat_s) - 65535.0 * rt_whole(Q(heartbeat_s) / 65535.0);
    if (on_grid)
        left = 0.0;
    else if (enter && permit)
        left -= S(timer_ticks);
    else if (forms)
        left -= S(good_ticks);
    Q(enter_delay_s_left) = rt_seconds_left(left > 0.0 ? left : 0.0);
    Q(volt_var_ref_pu) = S(volt_var_ref_pu_now);
}

/* What the cells could take and give now [W], energy apart; as `limits` of the model has it. */
static inline void rt_measure_reach(
    const double *p, const double *c, const double *s, double voltage_v, double *q)
{
    double taper = rt_most(1.0 - P(taper_per_j) * rt_most(S(energy_j) - P(taper_j), 0.0), P(taper_frac_min));
    double charge_w = rt_least(P(power_w_charge_max) * taper, S(charge_w_limit));
    double discharge_w = rt_least(P(power_w_discharge_max), S(discharge_w_limit));
    int open = C(bms_open) != 0.0;

    Q(charge_a_max) = open ? 0.0 : charge_w / voltage_v;
    Q(discharge_a_max) = open ? 0.0 : discharge_w / voltage_v;
}

/* Battery as models 713, 124, 802 and 803 show it; its charge is what the device believes. */
static inline void rt_measure_battery(
    const double *p, const double *c, const double *s, const double *k, double *q)
{
    int status = (int)S(status), empty = status == STATUS_empty, open = C(bms_open) != 0.0;
    int running = status == STATUS_on_grid || status == STATUS_island || status == STATUS_member;
    double battery_w = S(battery_w), cells_w = battery_w - S(standby_w_dc), energy_j = S(energy_j);
    double floor_j = P(energy_j_min) + P(imbalance_frac) * P(capacity_j);
    double inner_w = battery_w + S(ohm_w), rest_v = K(battery_v) * S(ocv_frac);
    double soc_frac = energy_j / P(capacity_j) + S(soc_error_frac);

    soc_frac = soc_frac < 0.0 ? 0.0 : soc_frac > 1.0 ? 1.0 : soc_frac;
    Q(battery_w) = battery_w;
    /* The resistance takes its part between the cells' own voltage and the terminals. */
    Q(battery_v) = battery_w == 0.0 ? rest_v : rest_v * (battery_w / inner_w);
    Q(battery_a) = inner_w / rest_v;
    Q(cell_v) = Q(battery_v) * (K(cell_v) / K(battery_v));
    Q(cell_c) = S(temp_c);
    Q(soc_frac) = soc_frac;
    Q(energy_wh) = soc_frac * P(capacity_j) / RT_J_PER_WH; /* 713: WHAvail = WHRtg * SoC * SoH */
    Q(soh_frac) = P(capacity_j) / RT_J_PER_WH / K(energy_wh_rated);
    rt_measure_reach(p, c, s, rest_v, q);
    Q(storage_status) = open ? 2.0 : empty; /* OK 0, WARNING 1, ERROR 2 */
    /* OFF 1, EMPTY 2, DISCHARGING 3, CHARGING 4, FULL 5, HOLDING 6 */
    Q(charge_status) = open ? 1.0 : cells_w > RT_FLOW_W ? 3.0 : cells_w < -RT_FLOW_W ? 4.0
                       : energy_j <= floor_j ? 2.0 : energy_j >= P(energy_j_max) ? 5.0 : 6.0;
    /* DISCONNECTED 1, CONNECTED 3, STANDBY 4, SOC PROTECTION 5 */
    Q(bank_state) = open ? 1.0 : running ? 3.0 : empty ? 5.0 : 4.0;
    /* UNDER_SOC_MIN_ALARM, bit 13; OTHER_ALARM, bit 25: the battery has opened its contactors. */
    Q(bank_events) = (empty ? 8192.0 : 0.0) + (open ? 33554432.0 : 0.0);
    Q(strings_connected) = !open;
    Q(string_status) = open ? 1.0 : 3.0; /* STRING_ENABLED 1, CONTACTOR_STATUS 2 */
    Q(string_contactors) = !open;
}

/* DC side as models 714 and 160 show it. */
static inline void rt_measure_ports(
    const double *p, const double *c, const double *u, const double *s, const double *k, double *q)
{
    int status = (int)S(status), open = C(bms_open) != 0.0;
    int running = status == STATUS_on_grid || status == STATUS_island || status == STATUS_member;
    double strings = K(pv_strings), pv_w = S(pv_w), available_w = U(pv_w_available);
    double least_w = 1e-6 * P(power_w_discharge_max);

    Q(ports_w) = S(battery_w) + (strings > 0.0 ? pv_w : 0.0);
    Q(ports_alarmed) = open; /* bit 0: the first port, the battery's */
    Q(battery_port_status) = open ? 3.0 : running || S(battery_w) != 0.0; /* OFF 0, ON 1, ERROR 3 */
    Q(battery_port_alarms) = open ? 8.0 : 0.0;                           /* DC_DISCONNECT, bit 3 */
    Q(pv_string_w) = strings > 0.0 ? pv_w / strings : 0.0;
    Q(pv_string_wh) = strings > 0.0 ? S(pv_j) / RT_J_PER_WH / strings : 0.0;
    Q(pv_port_status) = pv_w > 0.0;
    /* SLEEPING 2, MPPT 4, THROTTLED 5, STANDBY 8 */
    Q(pv_string_state) = available_w <= 0.0 ? 2.0 : pv_w <= 0.0 ? 8.0 : pv_w < available_w - least_w ? 5.0 : 4.0;
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
    /* STOP 0 and ENTER_STANDBY 2 withdraw the permit, START 1 and EXIT_STANDBY 3 give it: the last command
     * shows until another view of the permit contradicts it. */
    if ((H(operation) == 1.0 || H(operation) == 3.0) != (C(permit) != 0.0))
        H(operation) = C(permit);
    Q(operation) = H(operation);
    Q(alarm_reset) = H(alarm_reset);
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
    Q(battery_operation) = C(bms_open) != 0.0 ? 2.0 : 1.0; /* DISCONNECT, CONNECT */
    Q(battery_inverter_state) = H(battery_inverter_state);
}

static inline void rt_measure(
    const double *p, const double *c, const double *u, const double *s, const double *k, double *held,
    double *q)
{
    rt_measure_device(u, s, k, q);
    rt_measure_meter(u, s, k, q);
    rt_measure_inverter(p, c, u, s, q);
    rt_measure_battery(p, c, s, k, q);
    rt_measure_ports(p, c, u, s, k, q);
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
