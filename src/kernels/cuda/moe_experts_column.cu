/* moe_experts_column - an MoE layer of one token after routing, in one launch without a grid barrier, on any device from sm_80 on.
 *
 *   act[s] = the activation of W_gate_up[e] . x + b       as in moe_experts_sm90.cuh; s = the s-th expert hit
 *   y[c]   = sum over the columns of CTA c of topk_w * (64 columns of W_down[e]) . (64 channels of act)
 *   out    = residual + shared + scale * (sum over c of y[c] + sum over s of topk_w[s] * b_down)
 *
 *   x, out, residual, shared  [n_embd]  bf16      y    [n_cta, n_embd] f32 scratch
 *   w     atoms (moe_layout.h), u8                act  [row blocks of gate_up of all experts hit, 16] pairs of bf16, scratch; shared ones are written
 *   tables of moe_layout.h; head->zero[0] counts CTAs that have emptied their part of y and act
 *
 * For one token time is weight bytes plus latencies, so the stream of weights never stops: whoever makes 64 channels of act (a column) also
 * multiplies what takes these channels, and nobody waits for others before the final sum.
 *   share     a CTA (one per SM, all resident) has equal shares of row blocks of gate_up, half a column each, in a row.  So it has whole columns, and at
 *             either end maybe half of one, of which a neighbour has the other half.  Of a whole column it multiplies all rows of down, of a shared
 *             one a half: the owner of its first half the first.  Shared halves are made first and go to the neighbour through memory while
 *             the whole columns are made
 *   gate_up   each of 16 warps takes its sixteenth of K; the helper adds the sums up in warp order
 *   down      warps have equal shares of the atoms (row block, column), in that order.  Of a row block that two warps share the second one hands its sum to
 *             the first, through shared memory, early
 *   helper    a seventeenth warp.  It empties y and act before the first weights are asked for: a word not yet written is EMPTY, a NaN that no sum makes,
 *             and readers poll the words themselves (no fence, no counter between a sum and its use).  It makes act of the sums, and fetches the
 *             neighbours' halves
 *   ring      a warp's own: DEPTH half atoms (32 rows), filled by cp.async; a slot is asked for again as soon as its codes are in registers.
 *             More than 52 KB an SM on their way made everything that is not weights slower (H200)
 * mma.sync m16n8k16: weights are the 16 rows, all columns of B hold the token.  Codes go in as they are, value * 2^-126 (subnormal bf16), x comes times
 * 2^40, each group of 32 k has sums of its own, and the scales multiply these.  Lane (g, q) finishes row g + 8 (q / 2) of slice q % 2.
 * Numerics: fp32 sums, one rounding at act, one at out; bitwise repeatable for a number of SMs.
 * Cost: 17/32 B per weight of each expert hit; floor = bytes / 4.3 TB/s (H200).
 * Test: build/cuda/test_moe_experts --most 1, the same with MOXIE_TEST_PORTABLE=64    Bench: build/cuda/bench_moe --tokens 1
 */
#include "moe_column.cuh"

constexpr int WARPS = 16, HELPER = WARPS, THREADS = (WARPS + 1) * 32, DEPTH = 3;
constexpr int MAX_USED = 16, MAX_COLS = 64; /* columns of a CTA */
constexpr int BATCH = 8;                    /* float4 of out that a CTA adds up at once */

struct column_expert {
	int id;
	float w, mul0, mul1; /* topk_w; multipliers of the two products */
};

/* Shared memory behind the ring, which comes first. */
struct column_memory {
	int x, act, sums, experts, rests, bars, all;
};
__host__ __device__ static inline column_memory column_cut(int k_atoms0, int n_used, int n_col)
{
	column_memory m;
	m.x = WARPS * DEPTH * HALF;
	m.act = m.x + k_atoms0 * X_ATOM;
	m.sums = m.act + n_col * X_ATOM;
	m.experts = m.sums + WARPS * 64 * 4;
	m.rests = m.experts + n_used * (int)sizeof(column_expert);
	m.bars = m.rests + 32 * 4;
	m.all = m.bars + 8 * (4 + WARPS + n_col);
	return m;
}

__global__ void __launch_bounds__(THREADS, 1) moe_experts_column_kernel(const __grid_constant__ struct moe_column_args a)
{
	extern __shared__ __align__(128) uint8_t raw[];
	const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;
	const int k_atoms0 = a.e.p[0].k_atoms, k_atoms1 = a.e.p[1].k_atoms, n_block = a.e.p[1].row_blocks, n_block0 = n_block / 2;
	const column_memory cut = column_cut(k_atoms0, a.e.n_used, a.n_col);
	const uint32_t base = smem_u32(raw), ring = base + warp * DEPTH * HALF + lane * 16, ring_last = ring + (DEPTH - 1) * HALF;
	const uint32_t xs = base + cut.x, acts = base + cut.act;
	float *const sums = (float *)(raw + cut.sums); /* [warp][gate, up][32], then [warp][64] of a row block of down that warp hands to the one before */
	column_expert *const experts = (column_expert *)(raw + cut.experts);
	float *const rests = (float *)(raw + cut.rests); /* [32] what is added to this CTA's first channels of out */
	/* mbarriers: sums of a row block are written, taken; all CTAs have emptied their words; a warp's sums are handed over; act of a column */
	const uint32_t written = base + cut.bars, taken = written + 8, emptied = written + 16, handed = written + 32, ready = handed + 8 * WARPS;
	const int k0 = k_atoms0 * warp / WARPS, n_k = warp < WARPS ? k_atoms0 * (warp + 1) / WARPS - k0 : 0;

	pdl_launch();
	if (threadIdx.x == 0) {
		mbar_init(written, 32 * min(k_atoms0, WARPS));
		mbar_init(taken, 32);
		mbar_init(emptied, 32);
	}
	if (threadIdx.x < WARPS) mbar_init(handed + 8 * threadIdx.x, 32);
	if (threadIdx.x >= 32 && (int)threadIdx.x < 32 + a.n_col) mbar_init(ready + 8 * (threadIdx.x - 32), 2 * 32);
	__syncthreads();

	const int n_quad = a.e.n_embd / 4;
	const auto first_quad = [&](int cta) { return divide(n_quad * cta, a.by_grid); }; /* of out, of a CTA's share */
	uint32_t *const shared_act = (uint32_t *)a.e.act; /* [row block of gate_up][16] */
	pdl_wait();
	if (warp == HELPER) { /* before the first weights are asked for: behind them the fence would take until they are there */
		const uint4 none = make_uint4(EMPTY, EMPTY, EMPTY, EMPTY);
		for (int i = lane; i < n_quad; i += 32)
			((uint4 *)a.y)[blockIdx.x * n_quad + i] = none;
		for (int i = blockIdx.x * 32 + lane; i < a.e.n_used * a.e.n_ff / 8; i += gridDim.x * 32)
			((uint4 *)shared_act)[i] = none;
		__syncwarp();
		if (lane == 0) red_release(&a.e.head->zero[0], 1);
	}
	/* Tables and x: one round trip.  Entries past n_tile and past the last sorted row are read but not used. */
	const int n_tile = __ldcg(&a.e.head->n_tile);
	const int expert = __ldcg(&a.e.tiles[min(lane, a.e.max_tile - 1)].expert);
	const column_share share(n_tile * 2 * k_atoms1, blockIdx.x, a.by_grid);

	/* What is added to the sum of channel ch. */
	const auto rest_of = [&](int ch) {
		float more = 0, v = 0;
		if (a.c.shared) more += __bfloat162float(a.c.shared[ch]);
		if (a.c.residual) more += __bfloat162float(a.c.residual[ch]);
		if (a.e.p[1].bias)
			for (int s0 = 0; s0 < n_tile; s0 += 4) {
				float b[4];
#pragma unroll
				for (int j = 0; j < 4; j++) /* all loads before the first use */
					b[j] = ld_const(a.e.p[1].bias + (size_t)experts[min(s0 + j, n_tile - 1)].id * a.e.n_embd + ch);
#pragma unroll
				for (int j = 0; j < 4; j++)
					if (s0 + j < n_tile) v = fmaf(experts[s0 + j].w, b[j], v);
			}
		return fmaf(v, a.c.scale, more);
	};

	if (warp == HELPER) {
		if (lane < n_tile) {
			const int slot = __ldcg(a.e.sorted_pair + lane);
			experts[lane] = { expert, __ldcg(a.c.topk_w + slot), ld_const(a.e.p[0].mul + expert) * UNSCALE, ld_const(a.e.p[1].mul + expert) * UNSCALE };
		}
		__syncwarp();
		const int ch = first_quad(blockIdx.x) * 4 + lane;
		const float rest = ch < first_quad(blockIdx.x + 1) * 4 ? rest_of(ch) : 0; /* of this lane's first channel of out */
		bool all_empty = false;
		const auto wait_emptied = [&] {
			if (!all_empty && lane == 0)
				while (ld_acquire(&a.e.head->zero[0]) < (int)gridDim.x)
					;
			__syncwarp();
			all_empty = true;
		};
		/* This lane's words of act of a half column: in shared memory. */
		const auto act_at = [&](int place, int half, int word) {
			word += half * 16;
			return acts + place * X_ATOM + word % 4 * 32 + word / 8 * 8 + word / 4 % 2 * 4;
		};
#pragma unroll 1
		for (int j = 0; j < share.n_half; j++) {
			/* Lane: a channel of 32. */
			const int h = share.half_at(j), tile = divide(h / 2, a.by_k_atoms1);
			const column_expert e = experts[tile];
			float2 bias = {};
			if (a.e.p[0].bias) bias = __ldg((const float2 *)a.e.p[0].bias + (size_t)e.id * a.e.n_ff + (h - tile * 2 * k_atoms1) * 32 + lane);
			mbar_wait(written, j & 1);
			float gate = 0, up = 0;
#pragma unroll
			for (int w = 0; w < WARPS; w++)
				if (k_atoms0 * (w + 1) / WARPS > k_atoms0 * w / WARPS) {
					gate += sums[w * 64 + lane];
					up += sums[w * 64 + 32 + lane];
				}
			mbar_arrive(taken);
			const float v = moe_act(a.e, moe_restore(gate, e.mul0, bias.x), moe_restore(up, e.mul0, bias.y)), v1 = __shfl_xor_sync(0xffffffff, v, 1);
			const uint32_t two = scale_x(moe_pack_bf16(v, v1));
			if (j < share.n_shared()) {
				wait_emptied();
				if (lane % 2 == 0) put_word(shared_act + h * 16 + lane / 2, two);
			}
			if (lane % 2 == 0) sts32(act_at(share.place_of(j), h & 1, lane / 2), two);
			mbar_arrive(ready + 8 * share.place_of(j));
		}
		wait_emptied();
		/* The neighbours' halves of shared columns, 16 words each. */
		const int place = lane / 16;
		if (place < share.n_shared()) {
			const int h = share.half_at(place) ^ 1;
			uint32_t two;
			do
				two = poll32(shared_act + h * 16 + lane % 16);
			while (two == EMPTY);
			sts32(act_at(place, h & 1, lane % 16), two);
		}
		for (int i = 0; i < share.n_shared(); i++)
			mbar_arrive(ready + 8 * i);
		rests[lane] = rest;
		mbar_arrive(emptied);
		return;
	} else {
		const int n_chunk = k_atoms0 * 8;
		uint4 chunk = {};
		if ((int)threadIdx.x < n_chunk) chunk = __ldcg(a.e.p[0].src + threadIdx.x);
		/* Of the down product this warp has atoms [i0, i1): those of the first half of the row blocks come first. */
		const int per0 = share.columns(0), per1 = share.columns(1), n0 = n_block0 * per0, n_down = n0 + (n_block - n_block0) * per1;
		const auto row_start = [&](int r) { return r < n_block0 ? r * per0 : n0 + (r - n_block0) * per1; };
		/* A row block belongs to two warps at most. */
		const bool even = n_down / WARPS >= max(per0, per1);
		const int i0 = even ? n_down * warp / WARPS : row_start(n_block * warp / WARPS);
		const int i1 = even ? n_down * (warp + 1) / WARPS : row_start(n_block * (warp + 1) / WARPS);
		const int n_gate = share.n_half * n_k, n_item = n_gate + i1 - i0;
		const auto locate = [&](int i, int &side, int &row, int &m) { /* of the down product */
			side = i >= n0;
			i -= side ? n0 : 0;
			const int per = side ? per1 : per0;
			row = divide_small(i, __frcp_rn((float)per));
			m = i - row * per;
			row += side ? n_block0 : 0;
		};
		/* Where atom i of this warp lies, in all experts' matrix. */
		const auto describe = [&](int i) {
			int tile, at, expert_atoms;
			if (i < n_gate) {
				const int j = divide_small(i, __frcp_rn((float)n_k)), h = share.half_at(j);
				tile = divide(h / 2, a.by_k_atoms1);
				at = (h - tile * 2 * k_atoms1) * k_atoms0 + k0 + i - j * n_k;
				expert_atoms = 2 * k_atoms1 * k_atoms0;
			} else {
				int side, row, m;
				locate(i0 + i - n_gate, side, row, m);
				const int col = share.column_at(share.place(side, m));
				tile = divide(col, a.by_k_atoms1);
				at = row * k_atoms1 + col - tile * k_atoms1;
				expert_atoms = n_block * k_atoms1;
			}
			return at + __shfl_sync(0xffffffff, expert, min(max(tile, 0), MAX_USED - 1)) * expert_atoms;
		};
		int near = 0, next = 0; /* atoms that the lanes have described; the one to be loaded next */
		const uint8_t *from = NULL;
		const auto load = [&](uint32_t to, int half) {
			if (next < n_item) {
				if (half == 0) {
					if ((uint32_t)next % 32 == 0) near = describe(next + lane);
					from = (next < n_gate ? a.e.p[0].w : a.e.p[1].w) + (size_t)__shfl_sync(0xffffffff, near, (uint32_t)next % 32) * MOE_ATOM_BYTES + lane * 16;
				}
				cp_async16(to, from + half * 1024);
				cp_async16(to + 512, from + half * 1024 + 512);
				if (lane < 4) cp_async16(to + 1024, from + MOE_ATOM_CODES + half * 64);
			}
			cp_async_commit();
			next += half;
		};
#pragma unroll
		for (int i = 0; i < DEPTH; i++)
			load(ring + i * HALF, i & 1);
		for (int i = threadIdx.x; i < n_chunk; i += WARPS * 32) { /* 16 bytes = k 8 i .. 8 i + 7 -> the words of lanes q = 0..3 */
			if (i != (int)threadIdx.x) chunk = __ldcg(a.e.p[0].src + i);
			const uint32_t at = xs + i / 8 * X_ATOM + i % 8 * 4;
			sts32(at, scale_x(chunk.x));
			sts32(at + 32, scale_x(chunk.y));
			sts32(at + 64, scale_x(chunk.z));
			sts32(at + 96, scale_x(chunk.w));
		}
		named_barrier<WARPS * 32>(1);

		const uint32_t merge = mxfp4_merge_mask(), field = 0x7F800000u;
		const uint32_t scale_from = 1024 + (q % 2 * 8 + g) * 4 - lane * 16, scale_shift = q / 2 ? 0 : 16;
		const bool slice1 = q % 2, row8 = q / 2;
		uint32_t slot = ring;
		/* The next atom times x at `x`: this lane's row of either half. */
		const auto multiply = [&](uint32_t x, float (&sum)[2]) {
#pragma unroll
			for (int half = 0; half < 2; half++) {
				cp_async_wait<DEPTH - 1>();
				__syncwarp();
				const uint4 x0 = lds128(x), x1 = lds128(x + 16);
				const uint4 code[2] = { lds128(slot), lds128(slot + 512) };
				const uint32_t scale = lds32(slot + scale_from) << scale_shift;
				__syncwarp();
				load(slot, (half + DEPTH) & 1);
				slot = slot == ring_last ? ring : slot + HALF;
				float lo[2][4] = {}, hi[2][4] = {}; /* k groups 0, 1 of two slices */
#pragma unroll
				for (int s = 0; s < 2; s++) {
					uint32_t f[4][4];
					unpack(code[s].x, code[s].y, merge, f[0], f[1]);
					unpack(code[s].z, code[s].w, merge, f[2], f[3]);
					mma_bf16(lo[s], f[0], x0.x, x0.y);
					mma_bf16(hi[s], f[2], x1.x, x1.y);
					mma_bf16(lo[s], f[1], x0.z, x0.w);
					mma_bf16(hi[s], f[3], x1.z, x1.w);
				}
				/* A word of scales: rows g, g + 8 of k group 0, and, bytes swapped, of group 1. */
				const float v0 = row8 ? (slice1 ? lo[1][2] : lo[0][2]) : (slice1 ? lo[1][0] : lo[0][0]);
				const float v1 = row8 ? (slice1 ? hi[1][2] : hi[0][2]) : (slice1 ? hi[1][0] : hi[0][0]);
				sum[half] = fmaf(v0, __uint_as_float(scale & field), sum[half]);
				sum[half] = fmaf(v1, __uint_as_float(__byte_perm(scale, 0, 0x2301) & field), sum[half]);
			}
		};
#pragma unroll 1
		for (int j = 0; j < share.n_half && n_k > 0; j++) {
			float sum[2] = {};
			uint32_t x = xs + k0 * X_ATOM + q * 32;
#pragma unroll 1
			for (int k = 0; k < n_k; k++, x += X_ATOM)
				multiply(x, sum);
			if (j > 0) mbar_wait(taken, (j - 1) & 1);
			float *const to = sums + warp * 64 + q / 2 * 32 + q % 2 * 8 + g;
			to[0] = sum[0];
			to[16] = sum[1];
			mbar_arrive(written);
		}

		/* The down product. */
		int side, row, m;
		locate(i0, side, row, m);
		bool tail = m > 0; /* this row block's first columns are the warp's before */
		float total[2] = {};
#pragma unroll 1
		for (int i = i0; i < i1; i++) {
			const int place = share.place(side, m);
			mbar_wait(ready + 8 * place, 0);
			const column_expert e = experts[divide(share.column_at(place), a.by_k_atoms1)];
			float sum[2] = {};
			multiply(acts + place * X_ATOM + q * 32, sum);
#pragma unroll
			for (int half = 0; half < 2; half++)
				total[half] = fmaf(e.w, moe_restore(sum[half], e.mul1, 0), total[half]);
			const bool whole = ++m == (side ? per1 : per0);
			if (!whole && i + 1 < i1) continue;
			if (tail) { /* nobody needs the sums of gate_up any more: act of the last column is there */
				sums[warp * 64 + lane] = total[0];
				sums[warp * 64 + 32 + lane] = total[1];
				mbar_arrive(handed + 8 * warp);
			} else {
				if (!whole) {
					mbar_wait(handed + 8 * (warp + 1), 0);
					total[0] += sums[(warp + 1) * 64 + lane];
					total[1] += sums[(warp + 1) * 64 + 32 + lane];
				}
				float *const to = a.y + (size_t)blockIdx.x * a.e.n_embd + row * 64 + q % 2 * 16 + q / 2 * 8 + g;
				put_word(to, __float_as_uint(total[0]));
				put_word(to + 32, __float_as_uint(total[1]));
			}
			total[0] = total[1] = 0;
			tail = false;
			m = 0;
			side = ++row >= n_block0;
		}
		mbar_wait(emptied, 0);
	}

	/* This CTA's share of out: thread (row of y mod ROWS, float4).  Sums of a warp lie in its ring. */
	constexpr int ROWS = WARPS * 32 / BATCH;
	const int u0 = first_quad(blockIdx.x), u1 = first_quad(blockIdx.x + 1);
#pragma unroll 1
	for (int u = u0; u < u1; u += BATCH) {
		const int quad = u + lane % BATCH;
		float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 1
		for (int r0 = threadIdx.x / BATCH; r0 < (int)gridDim.x; r0 += 4 * ROWS) {
			bool on[4];
#pragma unroll
			for (int j = 0; j < 4; j++) { /* without a column nothing is written */
				const int r = r0 + j * ROWS;
				on[j] = quad < u1 && r < (int)gridDim.x && column_share(n_tile * 2 * k_atoms1, r, a.by_grid).columns(quad / 16 >= n_block0) > 0;
			}
			add_written(sum, on, [&](int j) { return a.y + (size_t)(r0 + j * ROWS) * a.e.n_embd + quad * 4; });
		}
#pragma unroll
		for (int d = BATCH; d < 32; d *= 2) {
			sum.x += __shfl_xor_sync(0xffffffff, sum.x, d);
			sum.y += __shfl_xor_sync(0xffffffff, sum.y, d);
			sum.z += __shfl_xor_sync(0xffffffff, sum.z, d);
			sum.w += __shfl_xor_sync(0xffffffff, sum.w, d);
		}
		if (lane < BATCH) *(float4 *)(raw + warp * DEPTH * HALF + lane * 16) = sum;
		named_barrier<WARPS * 32>(1);
		const int ch = u * 4 + lane;
		if (warp == 0 && ch < u1 * 4) {
			float v = 0;
#pragma unroll
			for (int w = 0; w < WARPS; w++)
				v += *(const float *)(raw + w * DEPTH * HALF + lane * 4);
			a.c.out[ch] = __float2bfloat16(fmaf(v, a.c.scale, u == u0 ? rests[lane] : rest_of(ch)));
		}
		named_barrier<WARPS * 32>(1);
	}
}

const void *const moe_column_kernel = (const void *)moe_experts_column_kernel;
const int moe_column_threads = THREADS;

int moe_column_n_col(int n_tile, int n_ff, int n_cta)
{
	const int64_t n = ((int64_t)n_tile * (n_ff / 32) + n_cta - 1) / n_cta / 2 + 1;
	return n < MAX_COLS ? (int)n : MAX_COLS;
}

int moe_column_smem(int n_used, int n_embd, int n_ff, int n_cta)
{
	const int64_t halves = (int64_t)n_used * (n_ff / 32), most = (halves + n_cta - 1) / n_cta;
	/* Products that divide() must get right: n d < 2^32.  divide_small: numbers of atoms below 2^16. */
	const bool fits = n_used <= MAX_USED && most / 2 + 1 <= MAX_COLS && halves * n_cta * n_cta < 1ll << 32 && (int64_t)n_embd * n_cta * n_cta < 1ll << 34 &&
	                  (most / 2 + 1) * (n_embd / 64) < 1 << 16;
	return fits ? column_cut(n_embd / 64, n_used, moe_column_n_col(n_used, n_ff, n_cta)).all : INT32_MAX;
}
