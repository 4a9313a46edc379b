/* dtype.h - number formats of tensors in files and memory, and their scalar conversions.
 *
 * bf16   the high half of an fp32; rounding is to nearest, ties to even; NaN stays a quiet NaN
 * mxfp4  32 e2m1 codes (16 bytes, low nibble = even k) share one e8m0 scale byte s: value = e2m1 * 2^(s - 127)
 * e4m3   sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinity, largest 448, least 2^-9; NaN is 0x7f and 0xff
 * e8m0   s = 255 is NaN (OCP MX v1.0), s = 0 is 2^-127
 */
#ifndef MOXIE_BASE_DTYPE_H
#define MOXIE_BASE_DTYPE_H

#include <math.h>
#include <stdint.h>
#include <string.h>

enum dtype { DT_NONE, DT_F32, DT_F16, DT_BF16, DT_U8, DT_I8, DT_I32, DT_I64, DT_F64, DT_F8_E4M3, DT_F8_E8M0, DT_BOOL };

/* Bytes of one element; 0 for DT_NONE. */
static inline int dtype_bytes(enum dtype t)
{
	static const uint8_t bytes[] = { 0, 4, 2, 2, 1, 1, 4, 8, 8, 1, 1, 1 };
	return (unsigned)t < sizeof bytes ? bytes[t] : 0;
}

/* "BF16" as safetensors spells it. */
static inline const char *dtype_name(enum dtype t)
{
	static const char *const name[] = { "none", "F32", "F16", "BF16", "U8", "I8", "I32", "I64", "F64", "F8_E4M3", "F8_E8M0", "BOOL" };
	return (unsigned)t < sizeof name / sizeof *name ? name[t] : "?";
}

typedef uint16_t bf16;

#define MX_GROUP 32 /* codes per scale */

static inline float bf16_to_f32(bf16 v)
{
	uint32_t u = (uint32_t)v << 16;
	float f;
	memcpy(&f, &u, 4);
	return f;
}

static inline bf16 bf16_from_f32(float f)
{
	uint32_t u;
	memcpy(&u, &f, 4);
	if ((u & 0x7fffffffu) > 0x7f800000u)
		return (bf16)(u >> 16 | 0x40); /* keep the sign, make the NaN quiet */
	return (bf16)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static inline float e8m0_to_f32(uint8_t s)
{
	uint32_t u = s == 255 ? 0x7fc00000u : s == 0 ? 0x00400000u : (uint32_t)s << 23;
	float f;
	memcpy(&f, &u, 4);
	return f;
}

static inline float e4m3_to_f32(uint8_t v)
{
	uint32_t e = v >> 3 & 15, m = v & 7, u = (e + 120) << 23 | m << 20;
	float f;
	if (e == 0)
		f = (float)m * 0x1p-9f;
	else if (e == 15 && m == 7)
		f = NAN;
	else
		memcpy(&f, &u, 4);
	return v & 0x80 ? -f : f;
}

/* To nearest, ties to even; beyond 448, infinity too: 448, as cvt.rn.satfinite has it. */
static inline uint8_t e4m3_from_f32(float f)
{
	uint32_t u, sign, e;
	memcpy(&u, &f, 4);
	sign = u >> 24 & 0x80;
	u &= 0x7fffffffu;
	if (u > 0x7f800000u)
		return (uint8_t)(sign | 0x7f);
	if (u >= 0x43e00000u) /* 448 */
		return (uint8_t)(sign | 0x7e);
	e = u >> 23;
	if (e < 121) { /* below 2^-6: steps of 2^-9; adding 2^14 leaves just those bits */
		float a;
		memcpy(&a, &u, 4);
		a += 0x1p14f;
		memcpy(&u, &a, 4);
		return (uint8_t)(sign | (u & 15)); /* 8: the least normal number */
	}
	u += 0x7ffff + (u >> 20 & 1);
	return (uint8_t)(sign | ((u >> 20) - (120 << 3)));
}

/* The 16 e2m1 values; index = code, bit 3 = sign. */
static inline float e2m1_to_f32(unsigned code)
{
	static const float v[16] = { 0, .5f, 1, 1.5f, 2, 3, 4, 6, -0.f, -.5f, -1, -1.5f, -2, -3, -4, -6 };
	return v[code & 15];
}

#endif
