/* The kernel for each kind of processor, and which of them this machine has.
 *
 * Rules of this file: the same text compiled with other instructions, never another computation; the flags are in
 * setup.py.  Fused multiply-add is never among the instructions asked for.
 */
#ifndef RT_KERNEL_H
#define RT_KERNEL_H
#include <stdint.h>
#include "_fields.h"

#if !defined(__GNUC__)
#error "the kernel is written with the vector types of GCC and Clang: build it with one of them"
#endif

#define RT_STAGE static inline __attribute__((always_inline))
#define RT_APART static __attribute__((noinline))
#define RT_ALONE __restrict__

/* How long to step: whole coarse steps, then single ticks; the slow stage at multiples of `slow_ticks`. */
typedef struct {
    long steps, coarse_ticks, rest, slow_ticks;
} rt_time_t;

/* The next multiple of `period`, `now` included; never, if `now` is no time. */
static double rt_next_slow(double now, int64_t period)
{
    if (!(now >= 0.0 && now < 9e15))
        return __builtin_inf();
    const int64_t ticks = (int64_t)now, into = ticks % period;
    return (double)(into == 0 && (double)ticks == now ? ticks : ticks - into + period);
}

static const double rt_count[8] = {0, 1, 2, 3, 4, 5, 6, 7};

#define RT_JOINED(a, b) a##b
#define RT_CAT(a, b) RT_JOINED(a, b)

#if !defined(__clang__) /* GCC 12 says these of its own immintrin.h */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#define RT_SSE2
#endif

#define RT_WIDTH 2
#define RT_PARTS 4
namespace rt_baseline {
#include "_kernel_lanes.h"
}
#undef RT_WIDTH
#undef RT_PARTS
#undef RT_SSE2

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif
#define RT_AVX2
#define RT_WIDTH 4
#define RT_PARTS 4
namespace rt_avx2 {
#include "_kernel_lanes.h"
}
#undef RT_WIDTH
#undef RT_PARTS
#undef RT_AVX2
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl")
#endif
#define RT_AVX512
#define RT_WIDTH 8
#define RT_PARTS 2
namespace rt_avx512 {
#include "_kernel_lanes.h"
}
#undef RT_WIDTH
#undef RT_PARTS
#undef RT_AVX512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif

#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif

typedef void rt_advance_t(const double *p, double *c, const double *u, double *s, long n, rt_time_t time);
typedef struct {
    const char *name;
    rt_advance_t *advance;
} rt_target_t;

static const rt_target_t rt_targets[] = {
    {"baseline", rt_baseline::advance},
#if defined(__x86_64__)
    {"avx2", rt_avx2::advance},
    {"avx512", rt_avx512::advance},
#endif
};

/* How many of the targets, from the first, this machine has. */
static int rt_target_count(void)
{
    int count = 1;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2")) {
        count = 2;
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512vl"))
            count = 3;
    }
#endif
    return count;
}
#endif
