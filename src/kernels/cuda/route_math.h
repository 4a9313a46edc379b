/* route_math.h - the scalar maths of routing, the same bits on host and device.
 *
 * Selection compares rounded scores, so a CPU twin can agree with the GPU on every near-tie only if both compute the
 * same bits.  Hence own exp, log1p, reciprocal and root from IEEE operations (fmaf, mul, add) and no
 * contraction: the device uses the _rn intrinsics, a host file that includes this is built with -ffp-contract=off.
 * Errors against the exact values: route_exp <= 2, route_sigmoid <= 4, route_sqrt_softplus <= 3 ulp
 * (tests/cuda/test_route.cu, scalar_*).
 */
#ifndef ROUTE_MATH_H
#define ROUTE_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define ROUTE_HD static __host__ __device__ __forceinline__
#else
#define ROUTE_HD static inline
#endif

#ifdef __CUDA_ARCH__
ROUTE_HD uint32_t route_bits(float v) { return __float_as_uint(v); }
ROUTE_HD float route_float(uint32_t u) { return __uint_as_float(u); }
ROUTE_HD float route_add(float a, float b) { return __fadd_rn(a, b); }
ROUTE_HD float route_mul(float a, float b) { return __fmul_rn(a, b); }
ROUTE_HD float route_div(float a, float b) { return __fdiv_rn(a, b); }
ROUTE_HD float route_fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
#else
ROUTE_HD uint32_t route_bits(float v) { uint32_t u; memcpy(&u, &v, 4); return u; }
ROUTE_HD float route_float(uint32_t u) { float v; memcpy(&v, &u, 4); return v; }
ROUTE_HD float route_add(float a, float b) { return a + b; }
ROUTE_HD float route_mul(float a, float b) { return a * b; }
ROUTE_HD float route_div(float a, float b) { return a / b; }
ROUTE_HD float route_fma(float a, float b, float c) { return fmaf(a, b, c); }
#endif

#define ROUTE_KEY_NONE 0u /* no such expert: never selected */
#define ROUTE_KEY_NAN 1u  /* below every number, -inf too */

ROUTE_HD int route_is_nan(float v) { return (route_bits(v) & 0x7fffffffu) > 0x7f800000u; }
ROUTE_HD float route_inf(void) { return route_float(0x7f800000u); }

/* Order-preserving: a < b as numbers <=> key(a) < key(b) as unsigned; -0 and +0 share a key. */
ROUTE_HD uint32_t route_key(float v)
{
	uint32_t u = route_bits(route_add(v, 0.f)); /* -0 becomes +0 */
	uint32_t key = u ^ ((uint32_t)((int32_t)u >> 31) | 0x80000000u);
	return route_is_nan(v) ? ROUTE_KEY_NAN : key;
}

/* The number behind a key; NaN reads as -inf. */
ROUTE_HD float route_key_value(uint32_t key)
{
	return key <= ROUTE_KEY_NAN ? -route_inf() : route_float(key & 0x80000000u ? key ^ 0x80000000u : ~key);
}

/* Everything below is straight-line code without a branch or a library division: a lane evaluates up to 16 scores, and
 * only straight-line code lets the compiler run them side by side. */

/* e^x for x <= 0; exactly 0 below -87 (2^-125.5). */
ROUTE_HD float route_exp(float x)
{
	const float c = x >= -87.f ? x : -87.f;
	const float t = route_fma(c, 1.44269504088896341f, 12582912.f); /* 1.5 * 2^23: the integer lands in the low bits */
	const float n = route_add(t, -12582912.f);
	float r = route_fma(n, -0.693359375f, c); /* ln 2 in two parts, the first exact in 9 bits */
	r = route_fma(n, 2.12194440e-4f, r);
	float p = 1.9875691500e-4f;
	p = route_fma(p, r, 1.3981999507e-3f);
	p = route_fma(p, r, 8.3334519073e-3f);
	p = route_fma(p, r, 4.1665795894e-2f);
	p = route_fma(p, r, 1.6666665459e-1f);
	p = route_fma(p, r, 5.0000001201e-1f);
	p = route_add(route_fma(p, route_mul(r, r), r), 1.f);
	const float e = route_float(route_bits(p) + (route_bits(t) << 23));
	return x >= -87.f ? e : 0.f;
}

/* ln(1 + u), 0 <= u <= 1.  Above sqrt(2) - 1: ln 2 + ln(1 + (u - 1) / 2).  Polynomial of Cephes' logf. */
ROUTE_HD float route_log1p(float u)
{
	const int big = u > 0.41421356f;
	const float f = big ? route_mul(route_add(u, -1.f), 0.5f) : u, q = route_mul(f, f);
	float p = 7.0376836292e-2f;
	p = route_fma(p, f, -1.1514610310e-1f);
	p = route_fma(p, f, 1.1676998740e-1f);
	p = route_fma(p, f, -1.2420140846e-1f);
	p = route_fma(p, f, 1.4249322787e-1f);
	p = route_fma(p, f, -1.6668057665e-1f);
	p = route_fma(p, f, 2.0000714765e-1f);
	p = route_fma(p, f, -2.4999993993e-1f);
	p = route_fma(p, f, 3.3333331174e-1f);
	p = route_mul(route_mul(p, f), q);
	const float s = route_add(f, route_fma(q, -0.5f, p));
	return big ? route_add(s, 0.69314718f) : s;
}

/* 1 / d, 1 <= d <= 2: a line (error 4 %), three Newton steps. */
ROUTE_HD float route_reciprocal(float d)
{
	float y = route_fma(d, -0.47058824f, 1.41176471f);
	y = route_fma(y, route_fma(-d, y, 1.f), y);
	y = route_fma(y, route_fma(-d, y, 1.f), y);
	return route_fma(y, route_fma(-d, y, 1.f), y);
}

ROUTE_HD float route_sigmoid(float l)
{
	const float e = route_exp(-fabsf(l)), y = route_reciprocal(route_add(1.f, e));
	return l >= 0 ? y : route_mul(e, y);
}

/* sqrt(a), a = 0 or normal: the inverse root's integer guess (error 3.5 %), three Newton steps, one correction. */
ROUTE_HD float route_root(float a)
{
	float y = route_float(0x5f3759dfu - (route_bits(a) >> 1));
	const float h = route_mul(a, -0.5f);
	y = route_mul(y, route_fma(route_mul(h, y), y, 1.5f));
	y = route_mul(y, route_fma(route_mul(h, y), y, 1.5f));
	y = route_mul(y, route_fma(route_mul(h, y), y, 1.5f));
	const float g = route_mul(a, y);
	return route_fma(route_mul(y, 0.5f), route_fma(-g, g, a), g);
}

/* sqrt(ln(1 + e^l)); logits above 1e30 (+inf) count as 1e30, so that a sum of scores stays finite. */
ROUTE_HD float route_sqrt_softplus(float l)
{
	float pos = l > 0 ? l : 0;
	pos = pos < 1e30f ? pos : 1e30f;
	return route_root(route_add(pos, route_log1p(route_exp(-fabsf(l)))));
}

/* Score of a logit: 1 sigmoid, 2 sqrt(softplus).  NaN scores 0 (its rank is lowest anyway). */
ROUTE_HD float route_score(int rule, float l)
{
	const float s = rule == 1 ? route_sigmoid(l) : route_sqrt_softplus(l);
	return route_float(route_bits(s) & (route_is_nan(l) ? 0u : ~0u)); /* a mask: ?: would become a branch around it all */
}

/* What experts are ranked by: the logit, or score + bias; s is route_score of l. */
ROUTE_HD uint32_t route_score_key(float l, float s, float bias)
{
	const uint32_t number = route_is_nan(l) ? 0u : ~0u;
	return (route_key(route_add(s, bias)) & number) | (~number & ROUTE_KEY_NAN);
}
ROUTE_HD uint32_t route_rank_key(int rule, float l, float bias)
{
	return rule == 0 ? route_key(l) : route_score_key(l, route_score(rule, l), bias);
}

/* Experts per lane of the warp that routes a token: lane i owns experts [i*J, (i+1)*J).  It fixes the order of the
 * softmax denominator's sum, so the twin needs it too. */
ROUTE_HD int route_lane_experts(int n_expert)
{
	return n_expert <= 32 ? 1 : n_expert <= 64 ? 2 : n_expert <= 128 ? 4 : n_expert <= 256 ? 8 : n_expert <= 384 ? 12 : 16;
}

#endif
