/* moe_experts_few - an MoE layer of 2 to 4 tokens after routing, in one launch without a grid barrier, on any device from sm_80 on.
 *
 *   act[t][s] = the activation of W_gate_up[e] . x[t] + b       as in moe_experts_sm90.cuh; s = the s-th expert hit, t = its tokens
 *   y[c][t]   = sum over the columns of CTA c of topk_w * (64 columns of W_down[e]) . (64 channels of act[t])
 *   out[t]    = residual[t] + shared[t] + scale * (sum over c of y[c][t] + sum over s of topk_w[t][s] * b_down)
 *
 *   x, out, residual, shared  [n_tok, n_embd]  bf16      y    [n_cta, n_embd, 4] f32 scratch
 *   w     atoms (moe_layout.h), u8                       act  [row blocks of gate_up of all tiles, 4, 16] pairs of bf16, scratch
 *   tables of moe_layout.h: an expert has one tile; head->zero[0] counts CTAs that have emptied their part of y and act
 *
 * moe_experts_column.cu for several tokens; its shares, its helper, its words polled in memory.  What differs:
 *   mma.sync  column n of B is token n % 4 with k 0..31 of an atom (n < 4) or k 32..63 (n >= 4) and zeros elsewhere, so that each group of 32 k has
 *             sums of its own.  An expert multiplies tokens that have not chosen it too; these sums are dropped
 *   x         read as it lies, through L1: it has no room in 64 KB beside the ring
 *   gate_up   a warp has 32 rows of each row block and an eighth of K
 *   down      a warp has strips of 32 rows and all columns of these
 * Numerics: fp32 sums, one rounding at act, one at out; bitwise repeatable for a number of SMs.
 * Cost: 17/32 B per weight of each expert hit; floor = bytes / 4.3 TB/s (H200).
 * Test: MOXIE_TEST_PORTABLE=64 build/cuda/test_moe_experts --most 4    Bench: build/cuda/bench_moe --portable --smem 65536 --tokens 2,4
 */
#include "moe_column.cuh"

constexpr int WARPS = 16, HELPER = WARPS, THREADS = (WARPS + 1) * 32, K_PARTS = WARPS / 2, DEPTH = 3;
constexpr int TOK = 4, MAX_TILES = 32, MAX_COLS = 64;
constexpr int A_COL = TOK * X_ATOM;         /* act of a column: [token][k group][q][two words of each of two k16 steps] */

struct few_expert {
	int id, tokens;        /* bit t: token t has chosen it */
	float mul0, mul1;      /* multipliers of the two products */
	float w[TOK];          /* topk_w, or 0 */
};

__device__ __forceinline__ void put_two(float *p, float a, float b)
{
	asm volatile("st.relaxed.gpu.global.v2.f32 [%0], {%1, %2};" ::"l"(p), "f"(a), "f"(b) : "memory");
}
__device__ __forceinline__ uint32_t ld_x(const uint8_t *p)
{
	uint32_t v;
	asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(v) : "l"(p));
	return v;
}

/* Shared memory behind the ring, which comes first. */
struct few_memory {
	int act, sums, experts, bars, all;
};
__host__ __device__ static inline few_memory few_cut(int n_tile, int n_col)
{
	few_memory m;
	m.act = WARPS * DEPTH * HALF;
	m.sums = m.act + n_col * A_COL;
	m.experts = m.sums + K_PARTS * 64 * TOK * 4;
	m.bars = m.experts + n_tile * (int)sizeof(few_expert);
	m.all = m.bars + 8 * (4 + n_col);
	return m;
}

__global__ void __launch_bounds__(THREADS, 1) moe_experts_few_kernel(const __grid_constant__ struct moe_column_args a)
{
	extern __shared__ __align__(128) uint8_t raw[];
	const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;
	const int n_tok = a.c.n_tok, k_atoms0 = a.e.p[0].k_atoms, k_atoms1 = a.e.p[1].k_atoms, n_block = a.e.p[1].row_blocks, n_block0 = n_block / 2;
	const few_memory cut = few_cut(a.e.max_tile, a.n_col);
	const uint32_t base = smem_u32(raw), ring = base + warp * DEPTH * HALF + lane * 16, ring_last = ring + (DEPTH - 1) * HALF, acts = base + cut.act;
	float *const sums = (float *)(raw + cut.sums); /* [part of K][gate, up][32 channels][TOK] of a row block */
	few_expert *const experts = (few_expert *)(raw + cut.experts);
	/* mbarriers: sums of a row block are written, taken; all CTAs have emptied their words; act of a column */
	const uint32_t written = base + cut.bars, taken = written + 8, emptied = written + 16, ready = written + 32;
	const int k0 = k_atoms0 * (warp % K_PARTS) / K_PARTS, n_k = k_atoms0 * (warp % K_PARTS + 1) / K_PARTS - k0;

	pdl_launch();
	if (threadIdx.x == 0) {
		mbar_init(written, 2 * 32 * min(k_atoms0, K_PARTS));
		mbar_init(taken, 32);
		mbar_init(emptied, 32);
	}
	if (threadIdx.x >= 32 && (int)threadIdx.x < 32 + a.n_col) mbar_init(ready + 8 * (threadIdx.x - 32), 2 * 32);
	__syncthreads();

	const auto first_channel = [&](int cta) { return divide(a.e.n_embd / 4 * cta, a.by_grid) * 4; }; /* of out, of a CTA's share */
	pdl_wait();
	uint32_t *const shared_act = a.act; /* [row block of gate_up][TOK][16] */
	if (warp == HELPER) { /* before the first weights are asked for: behind them the fence would take until they are there */
		const uint4 none = make_uint4(EMPTY, EMPTY, EMPTY, EMPTY);
		for (int i = lane; i < a.e.n_embd; i += 32)
			((uint4 *)a.y)[blockIdx.x * a.e.n_embd + i] = none;
		for (int i = blockIdx.x * 32 + lane; i < a.e.max_tile * 2 * k_atoms1 * TOK * 4; i += gridDim.x * 32)
			((uint4 *)shared_act)[i] = none;
		__syncwarp();
		if (lane == 0) red_release(&a.e.head->zero[0], 1);
	}
	/* Entries past n_tile are read but not used. */
	const int n_tile = __ldcg(&a.e.head->n_tile);
	const int4 tile_of_lane = __ldcg((const int4 *)a.e.tiles + min(lane, a.e.max_tile - 1));
	const int expert = tile_of_lane.x;
	const column_share share(n_tile * 2 * k_atoms1, blockIdx.x, a.by_grid);

	/* What is added to the sums of channel ch. */
	const auto rest_of = [&](int ch, float (&rest)[TOK]) {
#pragma unroll
		for (int t = 0; t < TOK; t++)
			rest[t] = 0;
		if (a.e.p[1].bias)
#pragma unroll 4
			for (int s = 0; s < n_tile; s++) {
				const float b = ld_const(a.e.p[1].bias + (size_t)experts[s].id * a.e.n_embd + ch);
#pragma unroll
				for (int t = 0; t < TOK; t++)
					if (experts[s].tokens >> t & 1) rest[t] = fmaf(experts[s].w[t], b, rest[t]);
			}
#pragma unroll
		for (int t = 0; t < TOK; t++) {
			float more = 0;
			if (t < n_tok && a.c.shared) more += __bfloat162float(a.c.shared[(size_t)t * a.e.n_embd + ch]);
			if (t < n_tok && a.c.residual) more += __bfloat162float(a.c.residual[(size_t)t * a.e.n_embd + ch]);
			rest[t] = fmaf(rest[t], a.c.scale, more);
		}
	};

	if (warp == HELPER) {
		if (lane < n_tile) {
			few_expert e = { expert, 0, ld_const(a.e.p[0].mul + expert) * UNSCALE, ld_const(a.e.p[1].mul + expert) * UNSCALE, {} };
			for (int r = 0; r < tile_of_lane.z; r++) {
				const int pair = __ldcg(a.e.sorted_pair + tile_of_lane.y + r), t = pair / a.e.n_used;
				const float w = __ldcg(a.c.topk_w + pair);
				e.tokens |= 1 << t;
#pragma unroll
				for (int i = 0; i < TOK; i++)
					if (i == t) e.w[i] = w;
			}
			experts[lane] = e;
		}
		__syncwarp();
		float rest[TOK] = {}; /* of this lane's first channel of out */
		const int ch = first_channel(blockIdx.x) + lane;
		if (ch < first_channel(blockIdx.x + 1)) rest_of(ch, rest);
		bool all_empty = false;
		const auto wait_emptied = [&] {
			if (!all_empty && lane == 0)
				while (ld_acquire(&a.e.head->zero[0]) < (int)gridDim.x)
					;
			__syncwarp();
			all_empty = true;
		};
		/* Word `word` of 16 of act of half a column, token t: in shared memory. */
		const auto act_at = [&](int place, int half, int t, int word) {
			return acts + place * A_COL + (((t * 2 + half) * 4 + word % 4) * 4 + word / 8 * 2 + word / 4 % 2) * 4;
		};
#pragma unroll 1
		for (int j = 0; j < share.n_half; j++) {
			/* Lane: a channel of 32. */
			const int h = share.half_at(j), tile = divide(h / 2, a.by_k_atoms1);
			const int id = experts[tile].id, tokens = experts[tile].tokens;
			const float mul = experts[tile].mul0;
			float2 bias = {};
			if (a.e.p[0].bias) bias = __ldg((const float2 *)a.e.p[0].bias + (size_t)id * a.e.n_ff + (h - tile * 2 * k_atoms1) * 32 + lane);
			mbar_wait(written, j & 1);
			float gate[TOK] = {}, up[TOK] = {};
#pragma unroll
			for (int p = 0; p < K_PARTS; p++)
				if (k_atoms0 * (p + 1) / K_PARTS > k_atoms0 * p / K_PARTS) {
					const float4 u = *(const float4 *)(sums + (p * 64 + lane) * TOK), v = *(const float4 *)(sums + (p * 64 + 32 + lane) * TOK);
					gate[0] += u.x, gate[1] += u.y, gate[2] += u.z, gate[3] += u.w;
					up[0] += v.x, up[1] += v.y, up[2] += v.z, up[3] += v.w;
				}
			mbar_arrive(taken);
			if (j < share.n_shared()) wait_emptied();
#pragma unroll
			for (int t = 0; t < TOK; t++) {
				float v = moe_act(a.e, moe_restore(gate[t], mul, bias.x), moe_restore(up[t], mul, bias.y));
				if (!(tokens >> t & 1)) v = 0;
				const float v1 = __shfl_xor_sync(0xffffffff, v, 1);
				const uint32_t two = scale_x(moe_pack_bf16(v, v1));
				if (lane % 2 == 0) {
					if (j < share.n_shared()) put_word(shared_act + (h * TOK + t) * 16 + lane / 2, two);
					sts32(act_at(share.place_of(j), h & 1, t, lane / 2), two);
				}
			}
			mbar_arrive(ready + 8 * share.place_of(j));
		}
		wait_emptied();
		/* The neighbours' halves of shared columns. */
		for (int place = 0; place < share.n_shared(); place++) {
			const int h = share.half_at(place) ^ 1;
#pragma unroll
			for (int i = lane; i < TOK * 16; i += 32) {
				uint32_t two;
				do
					two = poll32(shared_act + h * TOK * 16 + i);
				while (two == EMPTY);
				sts32(act_at(place, h & 1, i / 16, i % 16), two);
			}
			mbar_arrive(ready + 8 * place);
		}
		*(float4 *)(sums + lane * TOK) = make_float4(rest[0], rest[1], rest[2], rest[3]); /* nobody needs the sums any more */
		mbar_arrive(emptied);
		return;
	} else {
		/* This lane's words of x: token g % 4, 32 channels of an atom. */
		const uint32_t x0 = (min(g % 4, n_tok - 1) * a.e.n_embd + k0 * 64 + g / 4 * 32 + 2 * q) * 2; /* bytes */
		/* Strips of 32 rows of down: an equal share of those of either half of the row blocks. */
		const int s0 = n_block0 * 2, s1 = (n_block - n_block0) * 2, per0 = share.columns(0), per1 = share.columns(1);
		const int f0 = s0 * warp / WARPS, f1 = s1 * warp / WARPS, n0 = (s0 * (warp + 1) / WARPS - f0) * per0, n1 = (s1 * (warp + 1) / WARPS - f1) * per1;
		const int n_gate = share.n_half * n_k, n_item = n_gate + n0 + n1;
		/* Where half atom i of this warp lies: twice the number of the atom in all experts' matrix, plus the half. */
		const auto describe = [&](int i) {
			int tile, at, expert_atoms;
			if (i < n_gate) {
				const int j = divide_small(i, __frcp_rn((float)n_k)), h = share.half_at(j);
				tile = divide(h / 2, a.by_k_atoms1);
				at = ((h - tile * 2 * k_atoms1) * k_atoms0 + k0 + i - j * n_k) * 2 + warp / K_PARTS;
				expert_atoms = 2 * k_atoms1 * k_atoms0;
			} else {
				i -= n_gate;
				const int side = i >= n0, per = side ? per1 : per0;
				i -= side ? n0 : 0;
				const int s = divide_small(i, __frcp_rn((float)per)), strip = s + (side ? s0 + f1 : f0), col = share.column_at(share.place(side, i - s * per));
				tile = divide(col, a.by_k_atoms1);
				at = (strip / 2 * k_atoms1 + col - tile * k_atoms1) * 2 + strip % 2;
				expert_atoms = n_block * k_atoms1;
			}
			return at + __shfl_sync(0xffffffff, expert, min(max(tile, 0), MAX_TILES - 1)) * expert_atoms * 2;
		};
		int near = 0, next = 0; /* half atoms that the lanes have described; the one to be loaded next */
		const auto load = [&](uint32_t to) {
			if (next < n_item) {
				if ((uint32_t)next % 32 == 0) near = describe(next + lane);
				const uint32_t at = __shfl_sync(0xffffffff, near, (uint32_t)next % 32);
				const uint8_t *const from = (next < n_gate ? a.e.p[0].w : a.e.p[1].w) + (size_t)(at / 2) * MOE_ATOM_BYTES + lane * 16, *const codes = from + at % 2 * 1024;
				cp_async16(to, codes);
				cp_async16(to + 512, codes + 512);
				if (lane < 4) cp_async16(to + 1024, from + MOE_ATOM_CODES + at % 2 * 64);
			}
			cp_async_commit();
			next++;
		};
#pragma unroll
		for (int i = 0; i < DEPTH; i++)
			load(ring + i * HALF);
		/* x into L1, all of it at once. */
		{
			uint32_t all = 0;
#pragma unroll 8
			for (int i = lane; i < n_tok * n_k * 4; i += 32) {
				const int t = divide_small(i, __frcp_rn((float)(n_k * 4)));
				all ^= ld_x((const uint8_t *)a.e.p[0].src + ((size_t)t * a.e.n_embd + k0 * 64) * 2 + (i - t * n_k * 4) * 32);
			}
			asm volatile("" ::"r"(all));
		}

		const uint32_t merge = mxfp4_merge_mask(), field = 0x7F800000u;
		const uint32_t scale_from = 1024 + g * 4 - lane * 16, order = q / 2 ? 0x2301 : 0x3210;
		const uint32_t low = g / 4 ? 0 : 0xffffffffu, high = ~low; /* which k group this lane's column of B has */
		uint32_t slot = ring;
		/* d = codes of the next half atom times the words b of B; scale: of rows g, g + 8 of two slices. */
		const auto multiply = [&](const uint32_t (&b)[4], float (&d)[2][4], float (&scale)[2][2]) {
			cp_async_wait<DEPTH - 1>();
			__syncwarp();
			const uint4 code[2] = { lds128(slot), lds128(slot + 512) };
			const uint32_t word[2] = { lds32(slot + scale_from), lds32(slot + scale_from + 32) };
			__syncwarp();
			load(slot);
			slot = slot == ring_last ? ring : slot + HALF;
#pragma unroll
			for (int s = 0; s < 2; s++) {
				uint32_t f[4][4];
				unpack(code[s].x, code[s].y, merge, f[0], f[1]);
				unpack(code[s].z, code[s].w, merge, f[2], f[3]);
#pragma unroll
				for (int i = 0; i < 4; i++)
					d[s][i] = 0;
				mma_bf16(d[s], f[0], b[0] & low, b[1] & low);
				mma_bf16(d[s], f[1], b[2] & low, b[3] & low);
				mma_bf16(d[s], f[2], b[0] & high, b[1] & high);
				mma_bf16(d[s], f[3], b[2] & high, b[3] & high);
				const uint32_t w = __byte_perm(word[s], 0, order);
				scale[s][0] = __uint_as_float(w << 16 & field);
				scale[s][1] = __uint_as_float(w & field);
			}
		};
		/* Sums of both k groups: of slice s row g + 8 (q / 2), tokens 2 (q % 2) and the next. */
		const auto join = [&](const float (&d)[2][4], float (&v)[2][2]) {
#pragma unroll
			for (int s = 0; s < 2; s++)
#pragma unroll
				for (int i = 0; i < 2; i++) {
					const float give = q / 2 ? d[s][i] : d[s][2 + i], keep = q / 2 ? d[s][2 + i] : d[s][i];
					v[s][i] = keep + __shfl_xor_sync(0xffffffff, give, 2);
				}
		};
#pragma unroll 1
		for (int j = 0; j < share.n_half && n_k > 0; j++) {
			float sum[2][4] = {}, v[2][2];
			uint32_t from = x0;
#pragma unroll 1
			for (int k = 0; k < n_k; k++, from += 128) {
				const uint8_t *const x = (const uint8_t *)a.e.p[0].src + from;
				const uint32_t b[4] = { scale_x(ld_x(x)), scale_x(ld_x(x + 16)), scale_x(ld_x(x + 32)), scale_x(ld_x(x + 48)) };
				float d[2][4], scale[2][2];
				multiply(b, d, scale);
#pragma unroll
				for (int i = 0; i < 8; i++)
					sum[i / 4][i % 4] = fmaf(d[i / 4][i % 4], scale[i / 4][i / 2 % 2], sum[i / 4][i % 4]);
			}
			join(sum, v);
			if (j > 0) mbar_wait(taken, (j - 1) & 1);
#pragma unroll
			for (int s = 0; s < 2; s++) /* gate in rows g, up in rows g + 8 */
				*(float2 *)(sums + (warp % K_PARTS * 64 + q / 2 * 32 + (warp / K_PARTS * 2 + s) * 8 + g) * TOK + q % 2 * 2) = make_float2(v[s][0], v[s][1]);
			mbar_arrive(written);
		}

		/* The down product. */
#pragma unroll 1
		for (int side = 0; side < 2; side++) {
			const int per = side ? per1 : per0, first = side ? s0 + f1 : f0, n = per ? (side ? n1 : n0) / per : 0;
#pragma unroll 1
			for (int i = 0; i < n; i++) {
				float total[2][4] = {}, v[2][2];
#pragma unroll 1
				for (int m = 0; m < per; m++) {
					const int place = share.place(side, m);
					mbar_wait(ready + 8 * place, 0);
					const few_expert &e = experts[divide(share.column_at(place), a.by_k_atoms1)];
					const uint4 chunk = lds128(acts + place * A_COL + ((g % 4 * 2 + g / 4) * 4 + q) * 16);
					const uint32_t b[4] = { chunk.x, chunk.y, chunk.z, chunk.w };
					float d[2][4], scale[2][2];
					multiply(b, d, scale);
#pragma unroll
					for (int t = 0; t < 2; t++) {
						const bool has = e.tokens >> (q % 2 * 2 + t) & 1;
						const float w = e.w[q % 2 * 2 + t] * e.mul1;
#pragma unroll
						for (int s = 0; s < 2; s++)
#pragma unroll
							for (int r = 0; r < 2; r++)
								if (has) total[s][r * 2 + t] = fmaf(d[s][r * 2 + t] * scale[s][r], w, total[s][r * 2 + t]);
					}
				}
				join(total, v);
				float *const to = a.y + ((size_t)blockIdx.x * a.e.n_embd + (first + i) * 32 + q / 2 * 8 + g) * TOK + q % 2 * 2;
#pragma unroll
				for (int s = 0; s < 2; s++)
					put_two(to + s * 16 * TOK, moe_restore(v[s][0], 1, 0), moe_restore(v[s][1], 1, 0));
			}
		}
		mbar_wait(emptied, 0);
	}

	/* This CTA's share of out: a warp adds up every 16th row of y, a lane one channel.  Sums of a warp lie in its ring. */
	const int c0 = first_channel(blockIdx.x), c1 = first_channel(blockIdx.x + 1);
#pragma unroll 1
	for (int c = c0; c < c1; c += 32) {
		const int ch = c + lane;
		float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 1
		for (int r0 = warp; r0 < (int)gridDim.x; r0 += 4 * WARPS) {
			uint4 v[4];
			bool on[4];
#pragma unroll
			for (int j = 0; j < 4; j++) { /* without a column nothing is written */
				const int r = r0 + j * WARPS;
				on[j] = ch < c1 && r < (int)gridDim.x && column_share(n_tile * 2 * k_atoms1, r, a.by_grid).columns(ch / 64 >= n_block0) > 0;
			}
			for (bool again = true; again;) {
				again = false;
#pragma unroll
				for (int j = 0; j < 4; j++) {
					v[j] = make_uint4(0, 0, 0, 0);
					if (on[j]) v[j] = poll128(a.y + ((size_t)(r0 + j * WARPS) * a.e.n_embd + ch) * TOK);
				}
#pragma unroll
				for (int j = 0; j < 4; j++)
					again |= v[j].x == EMPTY || v[j].y == EMPTY || v[j].z == EMPTY || v[j].w == EMPTY;
			}
#pragma unroll
			for (int j = 0; j < 4; j++) {
				sum.x += __uint_as_float(v[j].x);
				sum.y += __uint_as_float(v[j].y);
				sum.z += __uint_as_float(v[j].z);
				sum.w += __uint_as_float(v[j].w);
			}
		}
		*(float4 *)(raw + warp * DEPTH * HALF + lane * 16) = sum;
		named_barrier<WARPS * 32>(1);
		if (warp == 0 && ch < c1) {
			float rest[TOK];
			float v[TOK] = {};
#pragma unroll
			for (int w = 0; w < WARPS; w++) {
				const float4 u = *(const float4 *)(raw + w * DEPTH * HALF + lane * 16);
				v[0] += u.x, v[1] += u.y, v[2] += u.z, v[3] += u.w;
			}
			if (c == c0)
#pragma unroll
				for (int t = 0; t < TOK; t++)
					rest[t] = sums[lane * TOK + t];
			else
				rest_of(ch, rest);
			for (int t = 0; t < n_tok; t++)
				a.c.out[(size_t)t * a.e.n_embd + ch] = __float2bfloat16(fmaf(t < 2 ? (t ? v[1] : v[0]) : (t == 2 ? v[2] : v[3]), a.c.scale,
				                                                             t < 2 ? (t ? rest[1] : rest[0]) : (t == 2 ? rest[2] : rest[3])));
		}
		named_barrier<WARPS * 32>(1);
	}
}

const void *const moe_few_kernel = (const void *)moe_experts_few_kernel;
const int moe_few_threads = THREADS, moe_few_tokens = TOK;

uint64_t moe_few_y_bytes(int n_embd, int n_cta) { return (uint64_t)n_cta * n_embd * TOK * 4; }
uint64_t moe_few_act_bytes(int n_tile, int n_ff) { return (uint64_t)n_tile * (n_ff / 32) * TOK * 16 * 4; }

int moe_few_smem(int n_tile, int n_embd, int n_ff, int n_cta)
{
	const int64_t halves = (int64_t)n_tile * (n_ff / 32), most = (halves + n_cta - 1) / n_cta;
	/* Products that divide() must get right: n d < 2^32.  divide_small: numbers of half atoms below 2^16. */
	const bool fits = n_tile <= MAX_TILES && most / 2 + 1 <= MAX_COLS && halves * n_cta * n_cta < 1ll << 32 && (int64_t)n_embd * n_cta * n_cta < 1ll << 34 &&
	                  most * (n_embd / 64) < 1 << 16;
	return fits ? few_cut(n_tile, moe_column_n_col(n_tile, n_ff, n_cta)).all : INT32_MAX;
}
