/* moe_layout.h - how the expert weights lie in memory, and the tables that the routing launch hands to the experts.
 *
 * Shared by host and device code, C and CUDA.  Written by moe_repack*.cu and moe_route*.cu, read by moe_experts*.cu.
 *
 * Weights.  An atom is 64 packed rows x 64 k: 2048 bytes of e2m1 codes, then 128 bytes of scales (MOE_ATOM_BYTES).
 *     gate_up  [n_expert][n_ff / 32][n_embd / 64] atoms      64 packed rows = 32 gate channels and their 32 up channels
 *     down     [n_expert][n_embd / 64][n_ff / 64] atoms      64 packed rows = 64 output channels
 *   Thread t of a warpgroup (warp w = t / 32, g = t % 32 / 4, q = t % 4) owns bytes 16 t .. 16 t + 15 of the codes: 32
 *   codes of packed rows r = 16 w + g and r + 8.  Its code i = 0..31 is
 *       packed row  r + 8 * (i >> 1 & 1)
 *       k           16 * (i >> 3) + 8 * (i >> 2 & 1) + 2 q + (i & 1)
 *   which is the order of the registers of four wgmma m64k16 A fragments.  The bits of the 32 codes are spread over four
 *   words by moe_pack_codes.
 *   gate_up: packed row 16 w + g of row block b is gate channel 32 b + 8 w + g, packed row 16 w + g + 8 is the up channel
 *   of the same number, so a thread's accumulators hold gate and up of one channel.   down: packed row = output channel.
 *   Scales: word 8 w + g of the 128 bytes is moe_pack_scales(f(r, k group 0), f(r + 8, 0), f(r, 1), f(r + 8, 1)).
 *
 * Scales.  A multiplier is the bf16 2^126 * scale, kept as its exponent field f:
 *     f = s + 126 - offset, at least 0       for an e8m0 byte s = 0 .. 254 (weight = e2m1 * 2^(s - 127))
 *     f = 255                                for s = 255 (NaN): every output of that row is NaN
 *   offset >= 0 is one number per expert and matrix: max(0, largest s of the matrix that is not 255 - 128), so that f <= 254.
 *   The epilogue multiplies by mul = 2^offset (float, [n_expert]).  f = 0 is a multiplier of zero: it only arises for s = 0
 *   beside s = 254 in one matrix (offset 126), 2^-254 of the largest.  s = 0 (2^-127) without offset is exact.
 *
 * Biases are float: gate_up_bias [n_expert][n_ff][2] (gate, up), down_bias [n_expert][n_embd].
 *
 * Tables (all in device memory, written by the routing launch, nothing of them is ever read by the host):
 *     topk_id      int32 [n_tok * k]       expert or -1 (padding, an expert elsewhere): that slot is skipped
 *     topk_w       float [n_tok * k]
 *     expert_off   int32 [n_expert + 1]
 *     sorted_pair  int32 [n_tok * k]       pair = t * k + slot, by expert ascending, inside one expert pair ascending
 *     tiles        struct moe_tile [moe_max_tiles()]    in expert order; .done must be written as 0
 *     head         struct moe_head         n_tile, and zeros
 *     tok_done     int32 [n_tok]           zeros; no kernel reads it
 *   A tile is up to tile_n consecutive rows of sorted_pair, all of one expert.  An expert of n rows has
 *   ceil(n / tile_n) tiles of moe_tile_rows(n, tile_n) rows (the last one: what is left).
 *   The zeros are counters of the expert launch (done, and head.zero[0]: items claimed), which is why routing must write them
 *   in each run.
 */
#ifndef MOXIE_MOE_LAYOUT_H
#define MOXIE_MOE_LAYOUT_H

#include <stdint.h>

#define MOE_ATOM_CODES 2048
#define MOE_ATOM_BYTES (2048 + 128)

#ifdef __CUDACC__
#define MOE_HD __host__ __device__ static inline
#else
#define MOE_HD static inline
#endif

struct moe_tile {
	int32_t expert;
	int32_t row0;  /* into sorted_pair */
	int32_t n_row; /* 1 .. tile_n */
	int32_t done;  /* written 0; the expert launch counts finished parts of the gate/up product here */
};

struct moe_head {
	int32_t n_tile;
	int32_t zero[7]; /* written 0; [0]: items claimed; of one token: CTAs that emptied y */
};

/* Rows per tile of an expert with n > 0 rows: as equal as multiples of 8 allow, at most tile_n (a multiple of 8). */
MOE_HD int moe_tile_rows(int n, int tile_n)
{
	int n_tile = (n + tile_n - 1) / tile_n;
	return ((n + n_tile - 1) / n_tile + 7) / 8 * 8;
}

/* An upper bound of the number of tiles of any routing. */
MOE_HD int64_t moe_max_tiles(int64_t n_tok, int k, int n_expert, int tile_n)
{
	int64_t n_pair = n_tok * k, used = n_pair < n_expert ? n_pair : n_expert;
	return used + n_pair / tile_n;
}

MOE_HD int64_t moe_gate_up_bytes(int n_expert, int n_embd, int n_ff)
{
	return (int64_t)n_expert * (n_ff / 32) * (n_embd / 64) * MOE_ATOM_BYTES;
}
MOE_HD int64_t moe_down_bytes(int n_expert, int n_embd, int n_ff)
{
	return (int64_t)n_expert * (n_embd / 64) * (n_ff / 64) * MOE_ATOM_BYTES;
}

/* Where bit b (3 = sign .. 0 = mantissa) of code 0..15 (two k16 steps) is kept: bit 0..63 of two words.
 * A pair of codes becomes two bf16 by one shift or rotation and one mask (0x81C081C0): in word 0 pairs 0, 1, 2 by rotating
 * left 0, 6, 12; in word 1 by 2, 8, 14; what these leave over in both words merges into a third word (bits 0x60306030 of
 * word 0, the rest of word 1), whose two pairs need 4 and 10. */
MOE_HD int moe_code_bit(int code, int b)
{
	const uint8_t rot[2][4] = { { 0, 6, 12, 4 }, { 2, 8, 14, 10 } };
	int step = code >> 3, pair = code >> 1 & 3, half = code & 1;
	int target = half * 16 + (b == 3 ? 15 : 6 + b);
	int bit = (target - rot[step][pair]) & 31;
	int word = pair < 3 ? step : (0x60306030u >> bit & 1 ? 0 : 1);
	return word * 32 + bit;
}

/* The 32 codes of one thread -> its four words. */
MOE_HD void moe_pack_codes(const uint8_t *code, uint32_t *word)
{
	for (int i = 0; i < 4; i++)
		word[i] = 0;
	for (int i = 0; i < 32; i++)
		for (int b = 0; b < 4; b++) {
			int place = (i >> 4) * 64 + moe_code_bit(i & 15, b);
			word[place >> 5] |= (uint32_t)(code[i] >> b & 1) << (place & 31);
		}
}

/* Exponent fields of rows r, r + 8 of k group 0 and of k group 1 -> one word: one AND gives both fields of group 0, a swap
 * of the bytes of each half and the same AND gives those of group 1. */
MOE_HD uint32_t moe_pack_scales(int r_g0, int r8_g0, int r_g1, int r8_g1)
{
	uint32_t lo = (uint32_t)(r_g0 << 7 | r_g1 >> 1 | (r_g1 & 1) << 15);
	uint32_t hi = (uint32_t)(r8_g0 << 7 | r8_g1 >> 1 | (r8_g1 & 1) << 15);
	return lo | hi << 16;
}

/* s: e8m0 byte.  offset: of the expert's matrix. */
MOE_HD int moe_scale_field(int s, int offset)
{
	int f = s + 126 - offset;
	return s == 255 ? 255 : f < 0 ? 0 : f;
}

#endif
