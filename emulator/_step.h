/* One step of one device: the equations of reference.py, operation for operation.
 *
 * Rule of this file: no branch on a quantity that differs between devices except through PICK, so that the
 * eight lanes of a tile can become one vector; no libm; the same order of operations as reference.py, which is
 * its oracle bit for bit.  Pointers are to lane 0 of a tile plus the lane; fields lie RT_LANES apart.
 */
#ifndef RT_STEP_H
#define RT_STEP_H
#include "_fields.h"

#define P(name) p[PARAM_##name * RT_LANES]
#define C(name) c[CONTROL_##name * RT_LANES]
#define U(name) u[INPUT_##name * RT_LANES]
#define S(name) s[STATE_##name * RT_LANES]
#define PICK(mask, yes, no) ((mask) ? (yes) : (no))

static inline double rt_min(double a, double b) { return a < b ? a : b; }
static inline double rt_max(double a, double b) { return a > b ? a : b; }

/* What one stage of a step hands to the next. */
typedef struct {
    double dt_s, ticks;
    double status;        /* during this step */
    double before;        /* status in the step before */
    double pv_w_possible; /* what the PV inverter could deliver now */
    double backup_w;      /* demand of the backup panel */
    double convert_w;     /* AC power of the converter, standby apart */
    double standby_w_dc, standby_w_ac;
    double pv_w, slew_w_per_s;
} rt_step_t;

static inline double rt_loss(const double *p, double power_w)
{
    double x = power_w / P(power_w_nominal);
    return P(loss_a_w) * (x * x) + P(loss_b_w) * x + P(loss_c_w);
}

/* Transfer switch and inverter state at the start of the step. */
static inline void rt_switch(double *s, const double *p, double *c, const double *u, rt_step_t *k)
{
    double st = S(status), good = U(grid_good), timer = S(timer_ticks);
    int on_grid = st == STATUS_on_grid, enter = st == STATUS_enter, transfer = st == STATUS_transfer;
    int island = st == STATUS_island, overload = st == STATUS_overload, empty = st == STATUS_empty;
    int present = good != 0.0, permit = C(permit) != 0.0;
    int lost = (on_grid || enter) && !present;
    int reclose_dead = (transfer || overload || empty) && present; /* dead bus: no synchronising needed */
    int formed = (transfer && !present && timer >= P(transfer_ticks)) ||
                 (overload && !present && timer >= P(restart_ticks)) ||
                 (empty && !present && S(energy_j) >= P(energy_j_restart));
    int synced = island && present && S(good_ticks) >= P(enter_delay_ticks);
    int entered = enter && present && permit && timer >= P(enter_delay_ticks);
    int ceased = on_grid && present && !permit;
    int changed = lost || reclose_dead || formed || synced || entered || ceased;
    int cancels = lost && P(cancels_grants) != 0.0;

    k->before = st;
    st = PICK(lost, STATUS_transfer, st);
    st = PICK(reclose_dead || ceased || (synced && !permit), STATUS_enter, st);
    st = PICK(formed, STATUS_island, st);
    st = PICK((synced && permit) || entered, STATUS_on_grid, st);
    k->status = st;
    S(timer_ticks) = PICK(changed, 0.0, timer);
    S(surge_ticks_used) = PICK(changed, 0.0, S(surge_ticks_used));
    C(set_ena) = PICK(cancels, 0.0, C(set_ena));
    C(set_rvrt_ticks) = PICK(cancels, 0.0, C(set_rvrt_ticks));
    C(window_in_ena) = PICK(cancels, 0.0, C(window_in_ena));
    C(window_out_ena) = PICK(cancels, 0.0, C(window_out_ena));
    C(window_rvrt_ticks) = PICK(cancels, 0.0, C(window_rvrt_ticks));
}

/* PV inverter behind the home's bus: back after its own delay on a live bus. */
static inline void rt_pv(double *s, const double *p, const double *u, rt_step_t *k)
{
    double st = k->status;
    int live = st == STATUS_on_grid || st == STATUS_enter || st == STATUS_island ||
               (st == STATUS_empty && U(pv_w_available) > P(standby_w));
    int on = live && S(pv_ticks) >= P(pv_return_ticks);
    k->pv_w_possible = PICK(on, U(pv_w_available), 0.0);
    S(pv_ticks) = PICK(live, rt_min(S(pv_ticks) + k->ticks, P(pv_return_ticks)), 0.0);
    k->backup_w = U(load_w) * P(backup_frac);
}

/* Own consumption: from the cells, from the grid when they are at their floor, or asleep. */
static inline void rt_standby(double *s, const double *p, rt_step_t *k)
{
    double st = k->status;
    int closed = st == STATUS_on_grid || st == STATUS_enter;
    int enough = S(energy_j) - P(standby_w) * k->dt_s >= P(energy_j_min);
    int asleep = st == STATUS_empty;
    k->standby_w_dc = PICK(enough && !asleep, P(standby_w), 0.0);
    k->standby_w_ac = PICK(!enough && closed, P(standby_w), 0.0);
}

/* What the device wants to do on the grid: remote command, else its own mode; then the limits in force. */
static inline double rt_target(double *s, const double *p, const double *c, const double *u, const rt_step_t *k)
{
    double band_j = P(recharge_band_frac) * P(capacity_j);
    double on_j = rt_min(C(reserve_frac) * P(capacity_j), P(energy_j_max) - (band_j + band_j));
    double recharging = PICK(S(energy_j) < on_j, 1.0, PICK(S(energy_j) >= on_j + band_j, 0.0, S(recharging)));
    double recharge_w = PICK(recharging != 0.0, -P(power_w_recharge), 0.0);
    double local_w = PICK(P(revert_mode) == REVERT_self_consumption, U(load_w) - k->pv_w_possible,
                          PICK(P(revert_mode) == REVERT_recharge, recharge_w, 0.0));
    double low_w = PICK(C(window_in_ena) != 0.0, -C(window_in_frac) * P(power_w_charge_max), -P(power_w_charge_max));
    double high_w = PICK(C(window_out_ena) != 0.0, C(window_out_frac) * P(power_w_charge_max), P(power_w_discharge_max));
    double cap_w = PICK(C(limit_ena) != 0.0, C(limit_frac) * P(power_w_discharge_max), P(power_w_discharge_max));
    double target_w = PICK(C(set_ena) != 0.0, C(set_w), local_w);
    S(recharging) = recharging;
    return rt_min(rt_min(rt_max(target_w, low_w), high_w), cap_w);
}

/* Where the ramp goes on from: the power so far, or beyond the band where charging gains nothing.
 * The loss is convex, so a charging power above start_w exceeds its loss; a ramp that had to pass the band in
 * steps smaller than the band would never get through. */
static inline double rt_ramp_from(const double *p, double target_w, double was_w, double reach_w)
{
    double size_w = PICK(target_w < 0.0, -target_w, target_w);
    double spare_w = size_w - rt_loss(p, size_w);
    int charges = target_w < 0.0 && spare_w > 0.0;
    double start_w = P(loss_c_w) * size_w / PICK(charges, spare_w + P(loss_c_w), 1.0);
    int starts = charges && was_w - reach_w < 0.0 && was_w - reach_w > -start_w;
    return PICK(starts, rt_max(was_w, 0.0) - start_w, was_w);
}

/* Converter power while following the grid. */
static inline double rt_follow(double *s, const double *p, const double *c, const double *u, rt_step_t *k)
{
    double target_w = rt_target(s, p, c, u, k);
    double was_w = PICK(k->before == STATUS_on_grid, S(power_w) + S(standby_w_ac), 0.0);
    double reach_w = P(ramp_w_per_s) * k->dt_s;
    double ramp_frac = S(ramp_ticks) / rt_max(P(enter_ramp_ticks), 1.0);
    double frac = PICK(S(ramp_ticks) >= P(enter_ramp_ticks), 1.0, ramp_frac); /* also when there is no ramp */
    double from_w = rt_ramp_from(p, target_w, was_w, reach_w);
    double ramped_w = rt_max(rt_min(target_w, was_w + reach_w), from_w - reach_w);
    double reserve_j = PICK(P(has_reserve) != 0.0, C(reserve_frac) * P(capacity_j), 0.0);
    double floor_j = rt_max(P(energy_j_min), reserve_j);
    double above_w = rt_max((S(energy_j) - floor_j) / k->dt_s, 0.0);
    double room_w = rt_max((P(energy_j_max) - S(energy_j)) / k->dt_s, 0.0);
    double power_w = rt_max(rt_min(ramped_w, P(power_w_discharge_max) * frac), -P(power_w_charge_max) * frac);
    double size_w = PICK(power_w < 0.0, -power_w, power_w);
    double out_w = rt_max(above_w - rt_loss(p, size_w) - k->standby_w_dc, 0.0); /* loss only falls with power */
    double in_w = room_w + k->standby_w_dc;
    power_w = rt_max(rt_min(power_w, out_w), -in_w);
    size_w = PICK(power_w < 0.0, -power_w, power_w);
    power_w = PICK(power_w < 0.0 && size_w <= rt_loss(p, size_w), 0.0, power_w); /* would not reach the cells */
    k->slew_w_per_s = PICK(k->before == STATUS_on_grid && power_w == ramped_w,
                           PICK(power_w < from_w, from_w - power_w, power_w - from_w) / k->dt_s, 0.0);
    return power_w;
}

/* Charging from surplus PV behind an open switch, 0 when it would not reach the cells. */
static inline double rt_absorb(const double *s, const double *p, double surplus_w, const rt_step_t *k, double own_w)
{
    double room_w = rt_max((P(energy_j_max) - S(energy_j)) / k->dt_s, 0.0);
    double charge_w = rt_min(rt_min(rt_max(surplus_w, 0.0), P(power_w_charge_max)), room_w);
    return PICK(charge_w <= rt_loss(p, charge_w) + own_w, 0.0, charge_w);
}

/* Islanded service: the backup panel is served whole, or the island ends. */
static inline void rt_island(double *s, const double *p, rt_step_t *k)
{
    int island = k->status == STATUS_island;
    double net_w = k->backup_w - k->pv_w_possible;
    double charge_w = rt_absorb(s, p, -net_w, k, 0.0);
    double power_w = PICK(net_w > 0.0, net_w, -charge_w);
    double size_w = PICK(power_w < 0.0, -power_w, power_w);
    double drain_w = PICK(power_w == 0.0, 0.0, power_w + rt_loss(p, size_w)) + P(standby_w);
    double above_w = rt_max((S(energy_j) - P(energy_j_min)) / k->dt_s, 0.0);
    double used = PICK(net_w > P(power_w_discharge_max), S(surge_ticks_used) + k->ticks, 0.0);
    int tripped = island && (net_w > P(power_w_surge) || used > P(surge_ticks));
    int starved = island && !tripped && drain_w > above_w;
    double wake_w = rt_absorb(s, p, k->pv_w_possible, k, P(standby_w));
    int waking = k->status == STATUS_empty && wake_w > 0.0;

    S(surge_ticks_used) = PICK(island && !tripped, used, 0.0);
    S(pv_ticks) = PICK(tripped || starved, 0.0, S(pv_ticks)); /* the bus collapsed: PV waits its delay again */
    k->status = PICK(tripped, STATUS_overload, PICK(starved, STATUS_empty, k->status));
    k->convert_w = PICK(k->status == STATUS_island, power_w, PICK(waking, -wake_w, k->convert_w));
    k->pv_w = PICK(k->status == STATUS_island, PICK(net_w > 0.0, k->pv_w_possible, k->backup_w + charge_w),
                   PICK(waking, wake_w, k->pv_w));
    k->standby_w_dc = PICK(k->status == STATUS_island || waking, P(standby_w), PICK(starved, 0.0, k->standby_w_dc));
}

/* Books of the step: powers, energy, meters, extremes. */
static inline void rt_books(double *s, const double *p, const double *u, const rt_step_t *k)
{
    double st = k->status, dt = k->dt_s;
    int closed = st == STATUS_on_grid || st == STATUS_enter;
    int served = closed || st == STATUS_island;
    double convert_w = k->convert_w;
    double size_w = PICK(convert_w < 0.0, -convert_w, convert_w);
    double loss_w = PICK(convert_w == 0.0, 0.0, rt_loss(p, size_w));
    double battery_w = convert_w + loss_w + k->standby_w_dc;
    double power_w = convert_w - k->standby_w_ac;
    double load_w = PICK(closed, U(load_w), PICK(served, k->backup_w, 0.0));
    double backup_w = PICK(served, k->backup_w, 0.0);
    double import_w = PICK(closed, load_w - k->pv_w - power_w, 0.0);
    double dead_w = PICK(U(grid_good) != 0.0, 0.0, PICK(import_w < 0.0, -import_w, import_w));

    S(status) = st;
    S(energy_j) = S(energy_j) - battery_w * dt;
    S(power_w) = power_w;
    S(battery_w) = battery_w;
    S(loss_w) = loss_w;
    S(standby_w_dc) = k->standby_w_dc;
    S(standby_w_ac) = k->standby_w_ac;
    S(import_w) = import_w;
    S(load_w_served) = load_w;
    S(backup_w_served) = backup_w;
    S(pv_w) = k->pv_w;
    S(import_j) = S(import_j) + rt_max(import_w, 0.0) * dt;
    S(export_j) = S(export_j) + rt_max(-import_w, 0.0) * dt;
    S(discharge_j) = S(discharge_j) + rt_max(power_w, 0.0) * dt;
    S(charge_j) = S(charge_j) + rt_max(-power_w, 0.0) * dt;
    S(pv_j) = S(pv_j) + k->pv_w * dt;
    S(curtailed_j) = S(curtailed_j) + rt_max(U(pv_w_available) - k->pv_w, 0.0) * dt;
    S(loss_j) = S(loss_j) + loss_w * dt;
    S(standby_j) = S(standby_j) + (k->standby_w_dc + k->standby_w_ac) * dt;
    S(served_j) = S(served_j) + load_w * dt;
    S(backup_served_j) = S(backup_served_j) + backup_w * dt;
    S(backup_short_j) = S(backup_short_j) + (k->backup_w - backup_w) * dt;
    S(energy_j_low) = rt_min(S(energy_j), S(energy_j_low));
    S(energy_j_high) = rt_max(S(energy_j), S(energy_j_high));
    S(power_w_low) = rt_min(power_w, S(power_w_low));
    S(power_w_high) = rt_max(power_w, S(power_w_high));
    S(slew_w_per_s_high) = rt_max(k->slew_w_per_s, S(slew_w_per_s_high));
    S(dead_import_w_high) = rt_max(dead_w, S(dead_import_w_high));
}

/* Timers, and settings whose time has run out. */
static inline void rt_clocks(double *s, const double *p, double *c, const double *u, const rt_step_t *k)
{
    double st = k->status, ticks = k->ticks;
    int counting = st == STATUS_transfer || st == STATUS_overload || (st == STATUS_enter && C(permit) != 0.0);
    int permit_out = C(permit_rvrt_ticks) > 0.0 && C(permit_rvrt_ticks) <= ticks;
    int set_out = C(set_rvrt_ticks) > 0.0 && C(set_rvrt_ticks) <= ticks;
    int limit_out = C(limit_rvrt_ticks) > 0.0 && C(limit_rvrt_ticks) <= ticks;
    int window_out = C(window_rvrt_ticks) > 0.0 && C(window_rvrt_ticks) <= ticks;

    S(timer_ticks) = PICK(counting, S(timer_ticks) + ticks, 0.0);
    S(good_ticks) = PICK(st == STATUS_island && U(grid_good) != 0.0, S(good_ticks) + ticks, 0.0);
    S(ramp_ticks) = PICK(st == STATUS_on_grid, rt_min(S(ramp_ticks) + ticks, P(enter_ramp_ticks)), 0.0);
    S(elapsed_ticks) = S(elapsed_ticks) + ticks;
    C(permit) = PICK(permit_out, 1.0, C(permit));
    C(set_ena) = PICK(set_out, C(set_rvrt_ena), C(set_ena));
    C(set_w) = PICK(set_out, C(set_rvrt_w), C(set_w));
    C(limit_ena) = PICK(limit_out, C(limit_rvrt_ena), C(limit_ena));
    C(limit_frac) = PICK(limit_out, C(limit_rvrt_frac), C(limit_frac));
    C(window_in_ena) = PICK(window_out, 0.0, C(window_in_ena));
    C(window_out_ena) = PICK(window_out, 0.0, C(window_out_ena));
    C(window_in_frac) = PICK(window_out, 1.0, C(window_in_frac));
    C(window_out_frac) = PICK(window_out, 1.0, C(window_out_frac));
    C(permit_rvrt_ticks) = rt_max(C(permit_rvrt_ticks) - ticks, 0.0);
    C(set_rvrt_ticks) = rt_max(C(set_rvrt_ticks) - ticks, 0.0);
    C(limit_rvrt_ticks) = rt_max(C(limit_rvrt_ticks) - ticks, 0.0);
    C(window_rvrt_ticks) = rt_max(C(window_rvrt_ticks) - ticks, 0.0);
}

static inline void rt_step(const double *p, double *c, const double *u, double *s, double ticks)
{
    rt_step_t k = {.dt_s = ticks / RT_TICKS_PER_S, .ticks = ticks};
    rt_switch(s, p, c, u, &k);
    rt_pv(s, p, u, &k);
    rt_standby(s, p, &k);
    double follow_w = rt_follow(s, p, c, u, &k);
    k.convert_w = PICK(k.status == STATUS_on_grid, follow_w, 0.0);
    k.slew_w_per_s = PICK(k.status == STATUS_on_grid, k.slew_w_per_s, 0.0);
    k.pv_w = PICK(k.status == STATUS_on_grid || k.status == STATUS_enter, k.pv_w_possible, 0.0);
    rt_island(s, p, &k);
    rt_books(s, p, u, &k);
    rt_clocks(s, p, c, u, &k);
}

/* Whether the second ahead can be one step: nothing in it needs 20 ms resolution. */
static inline int rt_quiet(const double *p, const double *c, const double *u, const double *s)
{
    double st = S(status), timer = S(timer_ticks), second = RT_TICKS_PER_S;
    int present = U(grid_good) != 0.0, permit = C(permit) != 0.0;
    int enter_far = timer >= P(enter_delay_ticks) || timer + second <= P(enter_delay_ticks);
    int restart_far = timer + second <= P(restart_ticks);
    int drained = S(energy_j) < P(energy_j_restart);
    int sync_far = S(good_ticks) >= P(enter_delay_ticks) || S(good_ticks) + second <= P(enter_delay_ticks);
    int within = U(load_w) * P(backup_frac) <= P(power_w_discharge_max);
    int full_enough = S(energy_j) - P(energy_j_min) >= 2.0 * P(power_w_surge);
    int running = (C(permit_rvrt_ticks) > 0.0 && C(permit_rvrt_ticks) < second) ||
                  (C(set_rvrt_ticks) > 0.0 && C(set_rvrt_ticks) < second) ||
                  (C(limit_rvrt_ticks) > 0.0 && C(limit_rvrt_ticks) < second) ||
                  (C(window_rvrt_ticks) > 0.0 && C(window_rvrt_ticks) < second);
    int steady = (st == STATUS_on_grid && present && permit) ||
                 (st == STATUS_enter && present && (!permit || enter_far)) ||
                 (st == STATUS_island && within && full_enough && (!present || sync_far)) ||
                 (st == STATUS_overload && !present && restart_far) || (st == STATUS_empty && !present && drained);
    return steady && !running;
}

#undef P
#undef C
#undef U
#undef S
#undef PICK
#endif
