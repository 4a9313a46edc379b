/* amx_model.h - the AMX instructions of src/kernels/cpu/amx.c in plain C, so that any x86-64 machine can run that file's logic.
 *
 * Include it before amx.c, in the same translation unit: it replaces the tile intrinsics, and what asks for them (CPUID and the
 * kernel's permission), by functions of the same shape.  State is per thread, as on the processor.  Semantics are those of the
 * Intel SDM (LDTILECFG, TILELOADD, TILESTORED, TILEZERO, TDPBF16PS, TILERELEASE); what faults there ends the program here, and
 * memory is touched byte for byte where the instruction would, for the address sanitizer to see.
 * TDPBF16PS: even and odd k are summed apart by FMA in ascending k, then joined, then added to C; subnormal inputs and results are
 * zero.  Not modelled: time, and TILELOADD's restart after a page fault.
 */
#ifndef AMX_MODEL_H
#define AMX_MODEL_H

#include <cpuid.h>
#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { AMX_TILE = 8, AMX_ROW = 16, AMX_ROW_BYTES = 64 };

struct amx_state {
	bool on; /* palette 1 is loaded */
	int n_row[AMX_TILE], row_bytes[AMX_TILE]; /* 0: that tile is not configured */
	uint8_t data[AMX_TILE][AMX_ROW][AMX_ROW_BYTES];
};
static _Thread_local struct amx_state amx;
static bool amx_permitted;   /* arch_prctl was asked, once for the process */
static _Thread_local long amx_n_product;

#define AMX_FAULT_IF(cond)                                                                              \
	do {                                                                                            \
		if (cond) {                                                                             \
			fprintf(stderr, "%s:%d: AMX fault in %s: %s\n", __FILE__, __LINE__, __func__, #cond); \
			abort();                                                                        \
		}                                                                                       \
	} while (0)

static int amx_cpuid_count(unsigned leaf, unsigned sub, unsigned *a, unsigned *b, unsigned *c, unsigned *d)
{
	*a = *b = *c = 0;
	*d = leaf == 7 && sub == 0 ? 1u << 22 | 1u << 24 : 0; /* AMX-BF16, AMX-TILE */
	return 1;
}

static long amx_syscall(long number, long code, long feature)
{
	AMX_FAULT_IF(number != SYS_arch_prctl || code != 0x1023 || feature != 18);
	amx_permitted = true;
	return 0;
}

/* 64 bytes: palette, start row, 14 reserved, 16 x u16 bytes a row, 16 x u8 rows. */
static void amx_loadconfig(const void *config)
{
	uint8_t b[64];
	uint16_t row_bytes[16];
	memcpy(b, config, sizeof b);
	memcpy(row_bytes, b + 16, sizeof row_bytes);
	AMX_FAULT_IF(!amx_permitted);
	memset(&amx, 0, sizeof amx);
	if (b[0] == 0)
		return;
	AMX_FAULT_IF(b[0] != 1);
	AMX_FAULT_IF(b[1] >= AMX_ROW);
	for (int i = 2; i < 16; i++)
		AMX_FAULT_IF(b[i]);
	for (int i = 0; i < 16; i++) {
		int n_row = b[48 + i];
		AMX_FAULT_IF(i >= AMX_TILE && (row_bytes[i] || n_row));
		AMX_FAULT_IF(row_bytes[i] > AMX_ROW_BYTES || n_row > AMX_ROW);
		AMX_FAULT_IF(!row_bytes[i] != !n_row);
		if (i < AMX_TILE)
			amx.n_row[i] = n_row, amx.row_bytes[i] = row_bytes[i];
	}
	amx.on = true;
}

static void amx_release(void)
{
	memset(&amx, 0, sizeof amx);
}

static void amx_need(int t)
{
	AMX_FAULT_IF(!amx.on);
	AMX_FAULT_IF(t < 0 || t >= AMX_TILE);
	AMX_FAULT_IF(!amx.n_row[t]);
}

static void amx_zero(int t)
{
	amx_need(t);
	memset(amx.data[t], 0, sizeof amx.data[t]);
}

static void amx_loadd(int t, const void *base, int64_t stride)
{
	amx_zero(t);
	for (int r = 0; r < amx.n_row[t]; r++)
		memcpy(amx.data[t][r], (const char *)base + r * stride, (size_t)amx.row_bytes[t]);
}

static void amx_stored(int t, void *base, int64_t stride)
{
	amx_need(t);
	for (int r = 0; r < amx.n_row[t]; r++)
		memcpy((char *)base + r * stride, amx.data[t][r], (size_t)amx.row_bytes[t]);
}

static inline float amx_flush(float x)
{
	return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x;
}

/* Half of a pair of bf16 as fp32: 0 the even one. */
static inline float amx_half(const uint8_t *pair, int half)
{
	uint32_t v;
	memcpy(&v, pair, 4);
	v = half ? v & 0xffff0000u : v << 16;
	float f;
	memcpy(&f, &v, 4);
	return amx_flush(f);
}

/* C[m][n] += sum over pairs k of A[m][k] . B[k][n] */
__attribute__((target("fma"))) static void amx_dpbf16ps(int c, int a, int b)
{
	amx_need(c), amx_need(a), amx_need(b);
	AMX_FAULT_IF(c == a || c == b || a == b);
	AMX_FAULT_IF(amx.row_bytes[c] % 4 || amx.row_bytes[a] % 4 || amx.row_bytes[b] % 4);
	AMX_FAULT_IF(amx.n_row[c] != amx.n_row[a]);
	AMX_FAULT_IF(amx.n_row[b] != amx.row_bytes[a] / 4);
	AMX_FAULT_IF(amx.row_bytes[c] != amx.row_bytes[b]);
	int n_k = amx.n_row[b], n_col = amx.row_bytes[c] / 4;
	float bv[2][AMX_ROW][AMX_ROW] = { 0 };
	for (int k = 0; k < n_k; k++)
		for (int n = 0; n < n_col; n++)
			for (int h = 0; h < 2; h++)
				bv[h][k][n] = amx_half(amx.data[b][k] + 4 * n, h);
	for (int m = 0; m < amx.n_row[c]; m++) {
		float sum[2][AMX_ROW] = { 0 }, row[AMX_ROW] = { 0 };
		for (int k = 0; k < n_k; k++)
			for (int h = 0; h < 2; h++) {
				float av = amx_half(amx.data[a][m] + 4 * k, h);
				for (int n = 0; n < AMX_ROW; n++)
					sum[h][n] = amx_flush(__builtin_fmaf(av, bv[h][k][n], sum[h][n]));
			}
		memcpy(row, amx.data[c][m], sizeof row);
		for (int n = 0; n < n_col; n++)
			row[n] = amx_flush(amx_flush(row[n]) + amx_flush(sum[0][n] + sum[1][n]));
		memset(amx.data[c][m], 0, AMX_ROW_BYTES);
		memcpy(amx.data[c][m], row, (size_t)amx.row_bytes[c]);
	}
	amx_n_product++;
}

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig amx_loadconfig
#define _tile_release amx_release
#define _tile_zero amx_zero
#define _tile_loadd(t, base, stride) amx_loadd(t, base, (int64_t)(stride))
#define _tile_stored(t, base, stride) amx_stored(t, base, (int64_t)(stride))
#define _tile_dpbf16ps amx_dpbf16ps
#define __get_cpuid_count amx_cpuid_count
#define syscall amx_syscall

#endif
