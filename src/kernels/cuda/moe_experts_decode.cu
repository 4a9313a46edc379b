/* moe_experts_decode - an MoE layer of one token after routing, in one launch: both products and the weighted sum.
 *
 *   act[r] = the activation of W_gate_up[e] . x + b       as in moe_experts_sm90.cuh; row r = the r-th expert hit = tile r
 *   y[r]   = W_down[e] . act[r] + b_down
 *   out    = residual + shared + scale * sum over slots s  topk_w[s] * y[row of s]
 *
 *   x, out, residual, shared  [n_embd]  bf16      act  [n_used, n_ff]    bf16  scratch
 *   w     atoms (moe_layout.h), u8                y    [n_used, n_embd]  fp32  scratch
 *   unit_done [n_embd / 16] i32, scratch          tables of moe_layout.h; head->zero[0] counts CTAs past phase 0
 *
 * For one token time is weight bytes plus latencies, so the kernel is built around one queue of loads that never stops.  A unit is
 * 16 packed rows, a warp's quarter of an atom's rows; the CTA's 16 warps share its k atoms evenly, and each warp keeps its atoms of the
 * next DEPTH - 1 units in flight with cp.async (about 110 KB an SM) into slots of its own: the main loop has no barrier.  The queue runs
 * on from phase 0 (gate, up) into phase 1 (down): while the CTAs wait for each other and fetch act, weights keep arriving.
 * Registers instead of slots were slower: ptxas gives all loads one scoreboard, so that each use waits for the newest load.
 *   units     a CTA owns consecutive ones of each phase, GROUP at a time: warps put their sums over k in shared memory, one
 *             block barrier, then warp i finishes unit i.  The sixteenths of K are always the same and added in order.
 *   border    one grid barrier: all CTAs are resident (one per SM)
 *   combine   who finishes the last tile of 16 output rows adds up the slots of these rows, in slot order
 * mma.sync m16n8k16: weights are the 16 rows; the 8 columns all hold the token, and column 0 is used.
 * Numerics: fp32 sums, one rounding at act, one at out; bitwise repeatable.
 * Cost: 17/32 B per weight of each expert hit; floor = bytes / 4.3 TB/s (H200).
 * Test: build/cuda/test_moe_experts    Bench: build/cuda/bench_moe --tokens 1
 */
#include "device/mxfp4.cuh"
#include "device/ptx.cuh"
#include "moe_epilogue.cuh"
#include "moe_experts.h"

#ifdef MOE_STAMPS
__device__ unsigned long long moe_stamp[256][16];
#define STAMP(i)                                                                                   \
	do {                                                                                           \
		if (threadIdx.x == 0) asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(moe_stamp[blockIdx.x][i])::"memory"); \
	} while (0)
#else
#define STAMP(i)
#endif

constexpr int WARPS = 16, PIECE = 512 + 32; /* a warp's codes and scales of an atom */
constexpr int MAX_USED = 16;

/* ATOMS  most k atoms of a warp and unit
 * GROUP  units between two block barriers         DEPTH  slots of a warp, one unit each */
template <int ATOMS_, int GROUP_, int DEPTH_> struct decode_shape {
	static const int ATOMS = ATOMS_, GROUP = GROUP_, DEPTH = DEPTH_;
	static_assert(ATOMS == 3 || ATOMS == 4, "see load");
	static const int SLOT = ATOMS * PIECE, RING = WARPS * DEPTH * SLOT;
	static const int PART = GROUP * 16 * 16; /* floats of one of two buffers of sums: [unit, warp, row] */
	static const int FIXED = RING + 2 * PART * 4;
	static_assert(GROUP <= WARPS, "a warp finishes one unit of a group");
};

/* One unit of this CTA's list: those of phase 0, then those of phase 1. */
struct decode_unit {
	const uint8_t *codes; /* of its first atom */
	int scales;           /* from there to its scales */
	int tile;
};

struct decode_tables {
	int4 tile[MAX_USED];
	int row[MAX_USED]; /* row of slot s, or -1 */
	float w[MAX_USED]; /* topk_w */
};

/* Rows of activations in shared memory: per atom 4 x 32 bytes, lane q's values of four k16 steps. */
__host__ __device__ static inline int row_pitch(int k_atoms) { return k_atoms * 128; }

/* Units of a phase that are this CTA's: [q0, q1) of all tiles' units in a row. */
__device__ __forceinline__ void decode_share(const struct moe_phase &p, int n_tile, int &q0, int &q1)
{
	const uint32_t n = (uint32_t)n_tile * p.row_blocks * 4;
	q0 = (int)((uint64_t)n * blockIdx.x / gridDim.x);
	q1 = (int)((uint64_t)n * (blockIdx.x + 1) / gridDim.x);
}
/* Warp w's k atoms of every unit of a phase: from k0 on. */
__device__ __forceinline__ int decode_k0(const struct moe_phase &p, int w) { return p.k_atoms * w / WARPS; }

__device__ __forceinline__ void list_units(const struct moe_experts_args &a, const decode_tables &tab, int phase, int q0, int n, decode_unit *list)
{
	const struct moe_phase &p = a.p[phase];
#pragma unroll 1
	for (int i = threadIdx.x; i < n; i += WARPS * 32) {
		const int tile = (q0 + i) / (p.row_blocks * 4), u = q0 + i - tile * p.row_blocks * 4;
		list[i].codes = p.w + (size_t)(tab.tile[tile].x * p.row_blocks + u / 4) * p.k_atoms * MOE_ATOM_BYTES + u % 4 * 512;
		list[i].scales = MOE_ATOM_CODES - u % 4 * 480;
		list[i].tile = tile;
	}
}

/* 16 bytes = k 8 c .. 8 c + 7 of a row -> the words of lanes q = 0..3. */
__device__ __forceinline__ void put_chunk(uint32_t row, int c, uint4 v)
{
	const uint32_t at = row + (c >> 3) * 128 + (c & 7) * 4;
	sts32(at, v.x);
	sts32(at + 32, v.y);
	sts32(at + 64, v.z);
	sts32(at + 96, v.w);
}
__device__ __forceinline__ void load_rows(uint32_t rows, int pitch, const uint4 *src, int n_row, int chunks)
{
	const int n = n_row * chunks;
#pragma unroll 4
	for (int i = threadIdx.x; i < n; i += WARPS * 32) {
		const int r = i / chunks;
		put_chunk(rows + r * pitch, i - r * chunks, __ldcg(src + i));
	}
}

/* out of 16 channels from ch; one warp, its first 16 lanes. */
__device__ __forceinline__ void combine_rows(const struct moe_decode_args &a, const decode_tables &tab, int ch)
{
	const struct moe_combine_args &c = a.c;
	ch += threadIdx.x % 32;
	if (threadIdx.x % 32 >= 16) return;
	float sum = 0, more = 0;
	if (c.shared) more += __bfloat162float(c.shared[ch]);
	if (c.residual) more += __bfloat162float(c.residual[ch]);
#pragma unroll 1
	for (int s0 = 0; s0 < a.e.n_used; s0 += 4) {
		float y[4], w[4];
#pragma unroll
		for (int j = 0; j < 4; j++) {
			const int row = s0 + j < a.e.n_used ? tab.row[s0 + j] : -1;
			w[j] = y[j] = 0;
			if (row >= 0) {
				w[j] = tab.w[s0 + j];
				y[j] = __ldcg(a.y + (size_t)row * a.e.n_embd + ch);
			}
		}
#pragma unroll
		for (int j = 0; j < 4; j++)
			sum = fmaf(w[j], y[j], sum);
	}
	c.out[ch] = __float2bfloat16(fmaf(sum, c.scale, more));
}

template <class C> __global__ void __launch_bounds__(WARPS * 32, 1) moe_experts_decode_kernel(const __grid_constant__ struct moe_decode_args a)
{
	extern __shared__ __align__(128) uint8_t raw[];
	__shared__ decode_tables tab;
	const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;
	const uint32_t ring = smem_u32(raw) + warp * C::DEPTH * C::SLOT + lane * 16, ring_last = ring + (C::DEPTH - 1) * C::SLOT;
	float *const part = (float *)(raw + C::RING);
	decode_unit *const list = (decode_unit *)(raw + C::FIXED);
	const uint32_t rows = smem_u32(raw) + C::FIXED + a.list_bytes;

	STAMP(0);
	pdl_launch();
	pdl_wait();
	STAMP(1);
	/* Tables: one round trip.  Entries past n_tile and past the last sorted row are read but not used. */
	const int n_tile = __ldcg(&a.e.head->n_tile);
	int slot_of_row = 0;
	if (threadIdx.x < a.e.n_used) {
		slot_of_row = __ldcg(a.e.sorted_pair + threadIdx.x);
		tab.w[threadIdx.x] = __ldcg(a.c.topk_w + threadIdx.x);
		tab.row[threadIdx.x] = -1;
		tab.tile[threadIdx.x] = __ldcg((const int4 *)a.e.tiles + threadIdx.x);
	}
	load_rows(rows, 0, a.e.p[0].src, 1, a.e.n_embd / 8);
#pragma unroll 1
	for (int i = blockIdx.x + threadIdx.x * gridDim.x; i < a.e.n_embd / 16; i += gridDim.x * WARPS * 32)
		a.unit_done[i] = 0; /* before the grid barrier, counted after it */
	__syncthreads();
	if (n_tile == 0) { /* nothing but padding */
		for (int i = blockIdx.x * WARPS + warp; i < a.e.n_embd / 16; i += gridDim.x * WARPS)
			combine_rows(a, tab, i * 16);
		return;
	}
	STAMP(2);
	int q0, q1, q2, q3;
	decode_share(a.e.p[0], n_tile, q0, q1);
	decode_share(a.e.p[1], n_tile, q2, q3);
	const int n0 = q1 - q0, n_list = n0 + q3 - q2; /* phase 1 begins at n0 */
	list_units(a.e, tab, 0, q0, n0, list);
	list_units(a.e, tab, 1, q2, q3 - q2, list + n0);
	if (threadIdx.x < n_tile) tab.row[slot_of_row] = threadIdx.x;
	__syncthreads();
	STAMP(3);

	const uint32_t merge = mxfp4_merge_mask();
	const int k_of[2] = { decode_k0(a.e.p[0], warp), decode_k0(a.e.p[1], warp) };
	const int n_of[2] = { decode_k0(a.e.p[0], warp + 1) - k_of[0], decode_k0(a.e.p[1], warp + 1) - k_of[1] };
	int next = 0; /* unit to be loaded next */
	/* Lane l also fetches half l % 2 of the scales of atom l / 2. */
	const uint32_t scale_from = (lane / 2) * MOE_ATOM_BYTES + lane % 2 * 16, scale_to = (lane / 2) * PIECE + 512 + lane % 2 * 16 - lane * 16;
	const auto load = [&](uint32_t to) { /* to: this lane's codes in a slot */
		if (next < n_list) {
			const decode_unit unit = list[next];
			const int n_k = next < n0 ? n_of[0] : n_of[1];
			const uint8_t *const from = unit.codes + (next < n0 ? k_of[0] : k_of[1]) * MOE_ATOM_BYTES, *const codes = from + lane * 16;
			if (lane < 2 * n_k) cp_async16(to + scale_to, from + unit.scales + scale_from);
			if (n_k > 0) cp_async16_at<0, 0>(to, codes);
			if (n_k > 1) cp_async16_at<PIECE, MOE_ATOM_BYTES>(to, codes);
			if (n_k > 2) cp_async16_at<2 * PIECE, 2 * MOE_ATOM_BYTES>(to, codes);
			if (C::ATOMS > 3 && n_k > 3) cp_async16_at<3 * PIECE, 3 * MOE_ATOM_BYTES>(to, codes);
		}
		cp_async_commit();
		next++;
	};
#pragma unroll 1
	for (int i = 0; i < C::DEPTH - 1; i++)
		load(ring + i * C::SLOT);

	const uint32_t scale_at = 512 + g * 4 - lane * 16;
	uint32_t slot = ring, before = ring_last; /* of this unit, of the one before */
	int buf = 0;
#pragma unroll 1
	for (int phase = 0; phase < 2; phase++) {
		const struct moe_phase &p = a.e.p[phase];
		const int units = p.row_blocks * 4, k0 = decode_k0(p, warp), n_k = decode_k0(p, warp + 1) - k0;
		const int first = phase ? q2 : q0, n = phase ? q3 - q2 : q1 - q0;
		const decode_unit *const mine = list + (phase ? n0 : 0);
		if (phase == 1) {
			__syncthreads(); /* act and unit_done of this CTA are stored */
			STAMP(5);
			if (threadIdx.x == 0) {
				red_release(&a.e.head->zero[0], 1);
				while (ld_acquire(&a.e.head->zero[0]) < (int)gridDim.x)
					;
			}
			__syncthreads();
			STAMP(6);
			if (n > 0) load_rows(rows, row_pitch(p.k_atoms), p.src + mine[0].tile * p.src_pitch, mine[n - 1].tile - mine[0].tile + 1, p.src_pitch);
			__syncthreads();
			STAMP(7);
		}
		int tile_left = 0;         /* units left of a tile */
		uint4 x[C::ATOMS][2] = {}; /* this lane's activations for the warp's k atoms */
#pragma unroll 1
		for (int u0 = 0; u0 < n; u0 += C::GROUP) {
			/* The unit this warp will finish, and what that takes. */
			const bool own = warp < C::GROUP && u0 + warp < n;
			int tile = 0, u = 0;
			float mul = 1, bias = 0;
			if (own) {
				tile = mine[u0 + warp].tile;
				u = first + u0 + warp - tile * units;
				const int e = tab.tile[tile].x;
				mul = ld_const(p.mul + e);
				if (p.bias)
					bias = ld_const(p.bias + (phase ? (size_t)e * a.e.n_embd + u * 16 + lane % 16
					                                : ((size_t)e * a.e.n_ff + u * 8 + lane % 8) * 2 + lane / 8 % 2));
			}
			float *const sums = part + buf * C::PART;
			float *dst = sums + warp * 16 + g;
#pragma unroll 1
			for (int j = u0; j < min(u0 + C::GROUP, n); j++) {
				if (tile_left == 0) {
					const int now = mine[j].tile;
					tile_left = (now + 1) * units - first - j;
					const uint32_t from = rows + (phase ? (now - mine[0].tile) * row_pitch(p.k_atoms) : 0) + q * 32 + k0 * 128;
#pragma unroll
					for (int k = 0; k < C::ATOMS; k++)
						if (k < n_k) {
							x[k][0] = lds128(from + k * 128);
							x[k][1] = lds128(from + k * 128 + 16);
						}
				}
				tile_left--;
				cp_async_wait<C::DEPTH - 2>();
				__syncwarp();
				uint4 code[C::ATOMS];
				uint32_t scale[C::ATOMS];
#pragma unroll
				for (int k = 0; k < C::ATOMS; k++)
					if (k < n_k) {
						code[k] = lds128(slot + k * PIECE);
						scale[k] = lds32(slot + scale_at + k * PIECE);
					}
				load(before);
				before = slot;
				slot = slot == ring_last ? ring : slot + C::SLOT;
				float d[2][4] = {};
#pragma unroll
				for (int k = 0; k < C::ATOMS; k++)
					if (k < n_k) {
						uint32_t frag[4][4];
						mxfp4_expand_atom(code[k], scale[k], merge, frag);
						mma_bf16(d[0], frag[0], x[k][0].x, x[k][0].y);
						mma_bf16(d[1], frag[1], x[k][0].z, x[k][0].w);
						mma_bf16(d[0], frag[2], x[k][1].x, x[k][1].y);
						mma_bf16(d[1], frag[3], x[k][1].z, x[k][1].w);
					}
				if (q == 0) {
					dst[0] = d[0][0] + d[1][0];
					dst[8] = d[0][2] + d[1][2];
				}
				dst += 256;
			}
			__syncthreads();
			if (own) {
				/* Lane: row lane % 16, half lane / 16 of the sums over k. */
				const float *const from = sums + warp * 256 + lane % 16;
				float v = 0;
#pragma unroll
				for (int j = 0; j < 8; j++) {
					const int w = lane / 16 * 8 + j;
					if (decode_k0(p, w + 1) > decode_k0(p, w)) v += from[w * 16];
				}
				v += __shfl_xor_sync(0xffffffff, v, 16);
				v = moe_restore(v, mul, bias);
				if (phase == 0) {
					const float up = __shfl_xor_sync(0xffffffff, v, 8);
					if (lane < 8) a.e.act[(size_t)tile * a.e.n_ff + u * 8 + lane] = __float2bfloat16(moe_act(a.e, v, up));
				} else {
					if (lane < 16) __stcg(a.y + (size_t)tile * a.e.n_embd + u * 16 + lane, v);
					__syncwarp();
					int done = 0;
					if (lane == 0) done = add_acq_rel(a.unit_done + u, 1);
					done = __shfl_sync(0xffffffff, done, 0);
					if (done == n_tile - 1) combine_rows(a, tab, u * 16);
				}
			}
			buf ^= 1;
		}
		STAMP(phase == 0 ? 4 : 8);
	}
}

#define INSTANCE(name, atoms, group, depth)                                                                       \
	{ name, atoms, WARPS * 32, decode_shape<atoms, group, depth>::FIXED, (int)sizeof(decode_tables), \
	  (const void *)moe_experts_decode_kernel<decode_shape<atoms, group, depth>> }
const struct moe_decode_instance moe_decode_instances[MOE_N_DECODE] = { INSTANCE("decode_k3", 3, 12, 4), INSTANCE("decode_k4", 4, 12, 3),
	                                                                      INSTANCE("decode_k3s", 3, 8, 2), INSTANCE("decode_k4s", 4, 8, 2) };

int moe_decode_smem(const struct moe_decode_instance *in, int n_used, int n_embd, int n_ff, int n_cta, int *list_bytes)
{
	/* A CTA's units of phase 1 are consecutive and lie in this many tiles. */
	const int units0 = n_ff / 8, units1 = n_embd / 16;
	const int share0 = (n_used * units0 + n_cta - 1) / n_cta, share1 = (n_used * units1 + n_cta - 1) / n_cta;
	const int span = (share1 + units1 - 2) / units1 + 1, act = (span < n_used ? span : n_used) * row_pitch(n_ff / 64), x = row_pitch(n_embd / 64);
	*list_bytes = (share0 + share1) * (int)sizeof(decode_unit);
	return in->smem_fixed + *list_bytes + (x > act ? x : act);
}
