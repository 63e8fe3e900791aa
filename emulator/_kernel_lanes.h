/* Steps a few devices side by side, for one kind of processor.
 *
 * Included by _kernel.h once for each target, inside a namespace of its own, because a compiler lowers vectors for
 * the target of the function they stand in before it inlines.  RT_WIDTH is the number of devices in a narrow group,
 * RT_PARTS the number of those in a wide one.
 *
 * Rules of this file: other lanes are looked at only to choose between ways of computing the same bits.
 */
#include "_kernel_vector.h"

/* Fields of part `part` of a wide group, which lies RT_WIDTH devices further on. */
#define RT_AT(array, count, field, part) \
    (array + ((part) * RT_WIDTH / RT_LANES * (count) + (field)) * RT_LANES + (part) * RT_WIDTH % RT_LANES)
#define P(name, part) RT_AT(p, PARAM_COUNT, PARAM_##name, part)
#define C(name, part) RT_AT(c, CONTROL_COUNT, CONTROL_##name, part)
#define U(name, part) RT_AT(u, INPUT_COUNT, INPUT_##name, part)
#define S(name, part) RT_AT(s, STATE_COUNT, STATE_##name, part)
#include "_step_generated.h"

#define RT_ARRAYS const double *p, double *c, const double *u, double *s
#define RT_THEM p, c, u, s

/* The generated functions, each compiled for the step lengths that occur. */
RT_APART bool calm_second(RT_ARRAYS) { return step_calm_1(RT_THEM, RT_TICKS_PER_S); }
RT_APART bool calm_other(RT_ARRAYS, double ticks) { return step_calm_1(RT_THEM, ticks); }
RT_APART bool wide_calm_second(RT_ARRAYS) { return RT_CAT(step_calm_, RT_PARTS)(RT_THEM, RT_TICKS_PER_S); }
RT_APART void coarse_second(RT_ARRAYS) { step_coarse(RT_THEM, RT_TICKS_PER_S); }
RT_APART void coarse_other(RT_ARRAYS, double ticks) { step_coarse(RT_THEM, ticks); }
RT_APART void fine_tick(RT_ARRAYS) { step_fine(RT_THEM, 1.0); }
RT_APART void slow_stage(RT_ARRAYS, double ticks) { step_slow(RT_THEM, ticks); }

/* Settings and state of one group, aside. */
struct aside {
    alignas(64) double c[CONTROL_COUNT * RT_LANES];
    alignas(64) double s[STATE_COUNT * RT_LANES];
};

RT_STAGE void copy(const double *from, double *to, int fields)
{
    for (int k = 0; k < fields; k++)
        store(to + k * RT_LANES, load(from + k * RT_LANES));
}

/* Where the mask is set, take `from`, else leave `to`. */
RT_STAGE void take(M mask, const double *from, double *to, int fields)
{
    for (int k = 0; k < fields; k++)
        store(to + k * RT_LANES, pick(mask, load(from + k * RT_LANES), load(to + k * RT_LANES)));
}

/* The slow stage of those devices whose time it is; `due` holds the next time of each. */
RT_APART void slow_if_due(RT_ARRAYS, double *due, long period)
{
    const V now = load(S(elapsed_ticks, 0));
    for (int k = 0; k < RT_WIDTH; k++)
        if (!(now[k] <= due[k]))
            due[k] = rt_next_slow(now[k], period);
    const V next = load(due);
    const M is_due = equal(now, next);
    if (all(is_due)) {
        slow_stage(RT_THEM, (double)period);
    } else if (any(is_due)) {
        aside other;
        copy(c, other.c, CONTROL_COUNT);
        copy(s, other.s, STATE_COUNT);
        slow_stage(p, other.c, u, other.s, (double)period);
        take(is_due, other.c, c, CONTROL_COUNT);
        take(is_due, other.s, s, STATE_COUNT);
    }
    store(due, pick(is_due, next + spread((double)period), next));
}

RT_STAGE void heed_slow(RT_ARRAYS, double *due, long period)
{
    if (!all(less(load(S(elapsed_ticks, 0)), load(due))))
        slow_if_due(RT_THEM, due, period);
}

RT_APART void fine_steps(RT_ARRAYS, double *due, long ticks, long period)
{
    for (long k = 0; k < ticks; k++) {
        heed_slow(RT_THEM, due, period);
        fine_tick(RT_THEM);
    }
}

RT_STAGE void coarse_step(RT_ARRAYS, long ticks)
{
    if (ticks == RT_TICKS_PER_S)
        coarse_second(RT_THEM);
    else
        coarse_other(RT_THEM, (double)ticks);
}

/* One coarse step of the quiet devices, as many ticks in fine steps of the others. */
RT_APART void uneven_step(RT_ARRAYS, double *due, long ticks, long period)
{
    const M is_quiet = quiet(RT_THEM, (double)ticks);
    if (all(is_quiet)) {
        coarse_step(RT_THEM, ticks);
    } else if (!any(is_quiet)) {
        fine_steps(RT_THEM, due, ticks, period);
    } else {
        aside coarse;
        copy(c, coarse.c, CONTROL_COUNT);
        copy(s, coarse.s, STATE_COUNT);
        coarse_step(p, coarse.c, u, coarse.s, ticks);
        fine_steps(RT_THEM, due, ticks, period);
        take(is_quiet, coarse.c, c, CONTROL_COUNT);
        take(is_quiet, coarse.s, s, STATE_COUNT);
    }
}

RT_STAGE void one_step(RT_ARRAYS, double *due, rt_time_t time)
{
    const bool calm = time.coarse_ticks == RT_TICKS_PER_S ? calm_second(RT_THEM)
                                                          : calm_other(RT_THEM, (double)time.coarse_ticks);
    if (!calm)
        uneven_step(RT_THEM, due, time.coarse_ticks, time.slow_ticks);
}

/* One group through its whole time, while its state is in the nearest cache. */
RT_APART void narrow_group(RT_ARRAYS, rt_time_t time)
{
    alignas(64) double due[RT_WIDTH];
    store(due, spread(-1.0));
    for (long k = 0; k < time.steps; k++) {
        heed_slow(RT_THEM, due, time.slow_ticks);
        one_step(RT_THEM, due, time);
    }
    fine_steps(RT_THEM, due, time.rest, time.slow_ticks);
}

/* The same for a group of which only the first devices exist: aside, with the first one in the lanes beyond. */
RT_APART void part_group(RT_ARRAYS, rt_time_t time, int devices)
{
    alignas(64) double p2[PARAM_COUNT * RT_LANES], u2[INPUT_COUNT * RT_LANES];
    aside other;
    const M real = less(load(rt_count), spread(devices));
    const double *from[] = {p, c, u, s};
    double *to[] = {p2, other.c, u2, other.s};
    const int fields[] = {PARAM_COUNT, CONTROL_COUNT, INPUT_COUNT, STATE_COUNT};
    for (int a = 0; a < 4; a++)
        for (int k = 0; k < fields[a] * RT_LANES; k += RT_LANES)
            store(to[a] + k, pick(real, load(from[a] + k), spread(from[a][k])));
    narrow_group(p2, other.c, u2, other.s, time);
    take(real, other.c, c, CONTROL_COUNT);
    take(real, other.s, s, STATE_COUNT);
}

/* RT_PARTS groups in turn, or in one wide step where all are calm: their chains of operations fill each other's
 * waiting times. */
RT_APART void wide_group(RT_ARRAYS, rt_time_t time)
{
    alignas(64) double due[RT_PARTS][RT_WIDTH];
    for (int part = 0; part < RT_PARTS; part++)
        store(due[part], spread(-1.0));
#define RT_PART RT_AT(p, PARAM_COUNT, 0, part), RT_AT(c, CONTROL_COUNT, 0, part), RT_AT(u, INPUT_COUNT, 0, part), \
                RT_AT(s, STATE_COUNT, 0, part)
    for (long k = 0; k < time.steps; k++) {
        for (int part = 0; part < RT_PARTS; part++)
            heed_slow(RT_PART, due[part], time.slow_ticks);
        if (time.coarse_ticks == RT_TICKS_PER_S && wide_calm_second(RT_THEM))
            continue;
        for (int part = 0; part < RT_PARTS; part++)
            one_step(RT_PART, due[part], time);
    }
    for (int part = 0; part < RT_PARTS; part++)
        fine_steps(RT_PART, due[part], time.rest, time.slow_ticks);
#undef RT_PART
}

/* The first `n` devices of the arrays. */
RT_APART void advance(RT_ARRAYS, long n, rt_time_t time)
{
    const long wide = RT_PARTS * RT_WIDTH;
    for (long first = 0; first < n;) {
        const long tile = first / RT_LANES, lane = first % RT_LANES, left = n - first;
        const double *p1 = p + tile * PARAM_COUNT * RT_LANES + lane;
        double *c1 = c + tile * CONTROL_COUNT * RT_LANES + lane;
        const double *u1 = u + tile * INPUT_COUNT * RT_LANES + lane;
        double *s1 = s + tile * STATE_COUNT * RT_LANES + lane;
        if (left >= wide)
            wide_group(p1, c1, u1, s1, time);
        else if (left >= RT_WIDTH)
            narrow_group(p1, c1, u1, s1, time);
        else
            part_group(p1, c1, u1, s1, time, (int)left);
        first += left >= wide ? wide : RT_WIDTH;
    }
}
#undef RT_AT
#undef P
#undef C
#undef U
#undef S
#undef RT_ARRAYS
#undef RT_THEM
