/* Values and masks of a few devices side by side, for one kind of processor.
 *
 * Included once for each target, in a namespace of its own.  RT_WIDTH is the number of devices; RT_SSE2, RT_AVX2 and
 * RT_AVX512 say which instructions there are.
 *
 * Rules of this file: each operation is the one NumPy does, to the sign of a zero; nothing looks at another lane
 * except `all` and `any`.
 */

/* One value for each device.  In memory they need not be aligned. */
typedef double V __attribute__((vector_size(8 * RT_WIDTH)));
typedef double V_memory __attribute__((vector_size(8 * RT_WIDTH), aligned(8), may_alias));

RT_STAGE V load(const double *from) { return *(const V_memory *)from; }
RT_STAGE void store(double *to, V x) { *(V_memory *)to = x; }

#ifdef RT_AVX512

typedef __mmask8 M; /* one bit for each device */

RT_STAGE V spread(double x) { return _mm512_set1_pd(x); }
RT_STAGE V root(V a) { return _mm512_sqrt_pd(a); }
RT_STAGE V least(V a, V b) { return _mm512_min_pd(a, b); } /* a < b ? a : b, to the sign of zero */
RT_STAGE V most(V a, V b) { return _mm512_max_pd(a, b); }
RT_STAGE M less(V a, V b) { return _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ); }
RT_STAGE M less_equal(V a, V b) { return _mm512_cmp_pd_mask(a, b, _CMP_LE_OQ); }
RT_STAGE M greater(V a, V b) { return _mm512_cmp_pd_mask(a, b, _CMP_GT_OQ); }
RT_STAGE M greater_equal(V a, V b) { return _mm512_cmp_pd_mask(a, b, _CMP_GE_OQ); }
RT_STAGE M equal(V a, V b) { return _mm512_cmp_pd_mask(a, b, _CMP_EQ_OQ); }
RT_STAGE M not_equal(V a, V b) { return _mm512_cmp_pd_mask(a, b, _CMP_NEQ_UQ); }
RT_STAGE M same_bits(V a, V b)
{
    return _mm512_cmpeq_epi64_mask(_mm512_castpd_si512(a), _mm512_castpd_si512(b));
}
RT_STAGE M both(M m, M n) { return m & n; }
RT_STAGE M either(M m, M n) { return m | n; }
RT_STAGE M flip(M m) { return ~m; }
RT_STAGE V pick(M m, V yes, V no) { return _mm512_mask_blend_pd(m, no, yes); }
RT_STAGE M pick(M m, M yes, M no) { return (m & yes) | (~m & no); }
RT_STAGE M every() { return 0xff; }
RT_STAGE M none() { return 0; }
RT_STAGE bool all(M m) { return m == 0xff; }
RT_STAGE bool any(M m) { return m != 0; }

#else

typedef long long M __attribute__((vector_size(8 * RT_WIDTH))); /* all bits or none for each device */

RT_STAGE M less(V a, V b) { return a < b; }
RT_STAGE M less_equal(V a, V b) { return a <= b; }
RT_STAGE M greater(V a, V b) { return a > b; }
RT_STAGE M greater_equal(V a, V b) { return a >= b; }
RT_STAGE M equal(V a, V b) { return a == b; }
RT_STAGE M not_equal(V a, V b) { return a != b; }
RT_STAGE M same_bits(V a, V b) { return (M)a == (M)b; }
RT_STAGE M both(M m, M n) { return m & n; }
RT_STAGE M either(M m, M n) { return m | n; }
RT_STAGE M flip(M m) { return ~m; }
RT_STAGE V pick(M m, V yes, V no) { return m ? yes : no; }
RT_STAGE M pick(M m, M yes, M no) { return (m & yes) | (~m & no); }
RT_STAGE M none() { return M{}; }
RT_STAGE M every() { return ~M{}; }

#if defined(RT_AVX2)
RT_STAGE V spread(double x) { return _mm256_set1_pd(x); }
RT_STAGE V root(V a) { return _mm256_sqrt_pd(a); }
RT_STAGE V least(V a, V b) { return _mm256_min_pd(a, b); }
RT_STAGE V most(V a, V b) { return _mm256_max_pd(a, b); }
RT_STAGE bool all(M m) { return _mm256_movemask_pd((V)m) == 15; }
RT_STAGE bool any(M m) { return _mm256_movemask_pd((V)m) != 0; }
#elif defined(RT_SSE2)
RT_STAGE V spread(double x) { return _mm_set1_pd(x); }
RT_STAGE V root(V a) { return _mm_sqrt_pd(a); }
RT_STAGE V least(V a, V b) { return _mm_min_pd(a, b); }
RT_STAGE V most(V a, V b) { return _mm_max_pd(a, b); }
RT_STAGE bool all(M m) { return _mm_movemask_pd((V)m) == 3; }
RT_STAGE bool any(M m) { return _mm_movemask_pd((V)m) != 0; }
#else
RT_STAGE V spread(double x) { return V{x, x}; }
RT_STAGE V root(V a) { return V{__builtin_sqrt(a[0]), __builtin_sqrt(a[1])}; }
RT_STAGE V least(V a, V b) { return a < b ? a : b; }
RT_STAGE V most(V a, V b) { return a > b ? a : b; }
RT_STAGE bool all(M m) { return (m[0] & m[1]) != 0; }
RT_STAGE bool any(M m) { return (m[0] | m[1]) != 0; }
#endif
#endif
