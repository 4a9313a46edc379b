/* amx.c - AMX: panels by TDPBF16PS; everything else is avx512.c.
 *
 * Weights are the A tile (16 rows of 32 k, for bf16 straight from the file), tokens the B tile (16 pairs of k by 16 tokens, as
 * pack_panel of avx512.c leaves them), C is [16 rows][16 tokens] of fp32, begun with the bias and transposed on its way out.
 * Two by two tiles: four products for four tile loads.  Sums over k run in order, 32 at a time.
 * Beside the products of 32 rows the vector units expand the next 32 rows of MXFP4 into tiles, or fetch those of bf16 into L2.
 * Measured on one core of an Emerald Rapids (see docs/cpu-kernels.md): four products 16.5 ns from registers, 21.8 ns with all four
 * tiles from L2; expanding a tile 12 ns, hardly hidden.  Cutting k into chunks that stay in L1, with C parked in memory,
 * lost more at the tile stores than it won.
 * Cost: 16384 flops a product; floor 16 cycles each, so 64 cycles for 4 KB of tile loads from L2.
 * Test: build/test_kernels   Bench: moxie bench op --isa amx
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/target.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

TARGET_BEGIN("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,amx-tile,amx-bf16")
#include "kernels/cpu/avx512_util.h"

struct tile_config {
	uint8_t palette, start_row, unused[14];
	uint16_t col_bytes[16];
	uint8_t row[16];
};

/* Where the A tile of 16 rows begins, the bytes between its rows and between steps of 32 k. */
struct a_tiles {
	const char *base;
	size_t row, step;
};

/* y[t * ldy + r] for n_row rows and n_tok tokens of a 16 by 16 tile c[r][t]. */
INLINE void put_tile(float *y, int ldy, const float *c, int n_row, int n_tok)
{
	__m512i r[16];
	__mmask16 mask = (__mmask16)((1u << n_row) - 1);
	for (int i = 0; i < 16; i++)
		r[i] = _mm512_loadu_si512(c + 16 * i);
	transpose16(r);
	for (int i = 0; i < n_tok; i++)
		_mm512_mask_storeu_ps(y + (int64_t)i * ldy, mask, _mm512_castsi512_ps(r[i]));
}

/* Work for the vector units beside the products: n_unit units, each 16 rows by 32 k, spread evenly over n_turn turns. */
struct ahead {
	bf16 *dst; /* NULL: fetch only */
	struct mx_tile tile[2];
	const char *fetch;
	size_t fetch_row;
	int n_step, n_unit, n_turn, done, credit;
};

INLINE void ahead_unit(struct ahead *h)
{
	int t = h->done >= h->n_step, g = t ? h->done - h->n_step : h->done;
	if (h->dst)
		expand_group(h->dst + (int64_t)h->done * 512, h->tile + t, g);
	else
		for (int r = 0; r < 16; r++)
			_mm_prefetch(h->fetch + (size_t)(t * 16 + r) * h->fetch_row + (size_t)g * 64, _MM_HINT_T1);
	h->done++;
}

INLINE void ahead_turn(struct ahead *h)
{
	for (h->credit += h->n_unit; h->credit >= h->n_turn && h->done < h->n_unit; h->credit -= h->n_turn)
		ahead_unit(h);
}

/* c[4] of [16][16] = two blocks of 16 rows by two panels.  lone_a, lone_b: there is no second block, or panel. */
INLINE void tiles_2x2(float *c, const float *bias, const struct a_tiles a[2], const bf16 *b, int64_t ldb, int n_in, struct ahead *h, const bool lone_a,
                      const bool lone_b)
{
	_tile_loadd(0, bias, 64);
	_tile_loadd(1, bias, 64);
	_tile_loadd(2, bias + 256, 64);
	_tile_loadd(3, bias + 256, 64);
	for (int k = 0; k < n_in / 32; k++) {
		_tile_loadd(4, a[0].base + (size_t)k * a[0].step, a[0].row);
		_tile_loadd(6, b + (size_t)k * 512, 64);
		_tile_dpbf16ps(0, 4, 6);
		if (!lone_b) {
			_tile_loadd(7, b + ldb + (size_t)k * 512, 64);
			_tile_dpbf16ps(1, 4, 7);
		}
		if (!lone_a) {
			_tile_loadd(5, a[1].base + (size_t)k * a[1].step, a[1].row);
			_tile_dpbf16ps(2, 5, 6);
			if (!lone_b)
				_tile_dpbf16ps(3, 5, 7);
		}
		ahead_turn(h);
	}
	_tile_stored(0, c, 64);
	_tile_stored(1, c + 256, 64);
	_tile_stored(2, c + 512, 64);
	_tile_stored(3, c + 768, 64);
}

/* What is to be done for rows r .. r + 31 of the block before they are multiplied. */
static struct ahead prepare(const struct mat *w, int r0, int r, int n_row, int n_tok, bf16 *dst)
{
	int n_tile = r >= n_row ? 0 : n_row - r > 16 ? 2 : 1, n_step = w->n_in / 32;
	struct ahead h = { .n_step = n_step, .n_unit = n_tile * n_step, .n_turn = (n_tok + 31) / 32 * n_step };
	if (w->mx) {
		h.dst = dst;
		for (int i = 0; i < n_tile; i++)
			h.tile[i] = mx_tile_at(w, r0 + r + 16 * i, n_row - r - 16 * i);
	} else {
		h.fetch = (const char *)w->data + (int64_t)(r0 + r) * w->n_in * 2;
		h.fetch_row = (size_t)w->n_in * 2;
	}
	return h;
}

static void panel(const struct mat *w, int r0, int n_row, const void *a, int n_tok, const float *bias, float *y, int ldy, void *expanded)
{
	const struct tile_config config = { .palette = 1, .col_bytes = { 64, 64, 64, 64, 64, 64, 64, 64 }, .row = { 16, 16, 16, 16, 16, 16, 16, 16 } };
	int n_in = w->n_in;
	int64_t ldb = (int64_t)pad_to(n_in, MX_CHUNK) * 16, half = (int64_t)n_in * 32;
	_Alignas(64) float c[4 * 256], bias_tile[2 * 256];
	struct ahead h = prepare(w, r0, 0, n_row, n_tok, expanded);
	if (w->mx)
		while (h.done < h.n_unit)
			ahead_unit(&h);

	_tile_loadconfig(&config);
	for (int r = 0, turn = 0; r < n_row; r += 32, turn ^= 1) {
		bf16 *mine = (bf16 *)expanded + turn * half, *next = (bf16 *)expanded + (turn ^ 1) * half;
		bool lone_a = n_row - r <= 16;
		struct a_tiles at[2];
		for (int i = 0; i < 2; i++) {
			int n = n_row - r - 16 * i;
			at[i] = (struct a_tiles){ (const char *)(mine + i * half / 2), 64, 1024 };
			if (!w->mx)
				at[i] = (struct a_tiles){ (const char *)w->data + ((int64_t)r0 + r + 16 * i) * n_in * 2, (size_t)n_in * 2, 64 };
			if (!w->mx && n > 0 && n < 16) { /* a tile has 16 rows: the last few are copied, so as not to read past the matrix */
				memcpy(mine, at[i].base, (size_t)n * (size_t)n_in * 2);
				at[i].base = (const char *)mine;
			}
			for (int j = 0; j < 16 && n > 0; j++)
				_mm512_store_ps(bias_tile + i * 256 + j * 16, _mm512_set1_ps(bias[r + 16 * i + (j < n ? j : n - 1)]));
		}
		h = prepare(w, r0, r + 32, n_row, n_tok, next);
		for (int t = 0; t < n_tok; t += 32) {
			const bf16 *b = (const bf16 *)a + t / 16 * ldb;
			bool lone_b = n_tok - t <= 16;
			if (lone_a && lone_b)
				tiles_2x2(c, bias_tile, at, b, ldb, n_in, &h, true, true);
			else if (lone_a)
				tiles_2x2(c, bias_tile, at, b, ldb, n_in, &h, true, false);
			else if (lone_b)
				tiles_2x2(c, bias_tile, at, b, ldb, n_in, &h, false, true);
			else
				tiles_2x2(c, bias_tile, at, b, ldb, n_in, &h, false, false);
			for (int q = 0; q < 4; q++) {
				int rr = r + q / 2 * 16, tt = t + q % 2 * 16;
				if (rr < n_row && tt < n_tok)
					put_tile(y + (int64_t)tt * ldy + rr, ldy, c + q * 256, n_row - rr < 16 ? n_row - rr : 16, n_tok - tt < 16 ? n_tok - tt : 16);
			}
		}
		while (h.done < h.n_unit)
			ahead_unit(&h);
	}
	_tile_release(); /* a thread that leaves tiles in use pays for them at every context switch */
}
TARGET_END

/* CPUID leaf 7 tells of AMX-BF16 and AMX-TILE; then Linux must grant the tile state to this process. */
static const char *amx_missing(void)
{
	enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
	unsigned a, b, c, d;
	if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1))
		return "AMX BF16";
	return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) ? "permission to use AMX tiles (arch_prctl)" : NULL;
}

const char *cpu_isa_amx(struct cpu_ops *ops)
{
	const char *missing = cpu_isa_avx512(ops);
	if (!missing)
		missing = amx_missing();
	ops->name = "cpu amx-bf16";
	ops->panel = panel;
	ops->unit = 16;
	ops->block = 128;
	ops->min_panel = 8;
	ops->min_panel_mx = 6;
	ops->tok_block = 192;
	return missing;
}
#else
const char *cpu_isa_amx(struct cpu_ops *ops)
{
	(void)ops;
	return "x86-64 Linux";
}
#endif
