/* moe_experts_pair - an MoE layer of one token after routing, in one launch without a grid barrier: both products and the weighted sum.
 *
 *   act[s] = the activation of W_gate_up[e] . x + b       as in moe_experts_sm90.cuh; s = the s-th expert hit
 *   y[c]   = sum over the columns of cluster c of topk_w * (64 columns of W_down[e]) . (64 channels of act)
 *   out    = residual + shared + scale * (sum over c of y[c] + sum over s of topk_w[s] * b_down)
 *
 *   x, out, residual, shared  [n_embd]  bf16      y    [n_cluster, 2, n_embd] f32 scratch
 *   w     atoms (moe_layout.h), u8                tables of moe_layout.h; head->zero[0] counts CTAs that have emptied their part of y
 *
 * For one token time is weight bytes plus latencies, so the stream of weights never stops: a cluster of two CTAs (16 warps each, one CTA
 * per SM) computes act of consecutive columns, 64 channels of an expert each, and then the part of the down product that takes these very
 * columns, for all output rows.  Nobody waits for another cluster before the end, where every CTA adds up its share of out.
 *   gate_up   column j of the cluster has two row blocks, one for each CTA.  Each of 15 warps takes its fifteenth of K, in atoms; two warps
 *             add the sums of a row block up, in warp order, and send act to both CTAs (st.async: it counts on their mbarriers)
 *   down      a CTA has half of the output row blocks; its warps have equal shares of the atoms (row block, column), in that order.  A row
 *             block that two warps share has its sum in two parts
 *   helper    warp 15 has no part in gate_up.  It empties y: a word not yet written is EMPTY, a NaN that no sum makes, and readers poll the words
 *             themselves (no fence, no counter between a sum and its use).  All CTAs are resident
 *   ring      a warp's own: DEPTH atoms, filled by cp.async; a lane reads the codes it copied: the main loops have no block barrier
 * mma.sync m16n8k16: weights are the 16 rows.  Codes go in as they are, value * 2^-126 (subnormal bf16), x comes times 2^40, and the scales
 * multiply the sums: even columns of B hold x for k 0..31 of an atom, odd ones for k 32..63, each with zeros elsewhere, so that the two
 * groups of scales have sums of their own.  Lane (g, q) finishes rows g and g + 8 of slice q.
 * Numerics: fp32 sums, one rounding at act, one at out; bitwise repeatable for a number of SMs.
 * Cost: 17/32 B per weight of each expert hit; floor = bytes / 4.3 TB/s (H200).
 * Test: build/cuda/test_moe_experts    Bench: build/cuda/bench_moe --tokens 1
 */
#include "device/cluster.cuh"
#include "moe_column.cuh"
#include "moe_pair_qkv.cuh"

constexpr int WARPS = 16, THREADS = WARPS * 32, HELPER = WARPS - 1, GATE_WARPS = WARPS - 1;
constexpr int MAX_USED = 16, MAX_COLS = 32; /* columns of a cluster */
constexpr int DEPTH = 5;                    /* atoms of a warp's ring */
constexpr int RING = WARPS * DEPTH * MOE_ATOM_BYTES;
constexpr int BATCH = 8;                    /* float4 of out that a CTA adds up at once */
static_assert(EMPTY == MOE_PAIR_EMPTY, "words not yet written");

struct pair_expert {
	int id;
	float w, mul0, mul1; /* topk_w; multipliers of the two products */
};

__device__ __forceinline__ void put_word(float *p, float v) { asm volatile("st.relaxed.gpu.global.f32 [%0], %1;" ::"l"(p), "f"(v) : "memory"); }
/* A barrier of n threads, which the helper does not hold up. */
__device__ __forceinline__ void bar_sync(int id, int n) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n) : "memory"); }
__device__ __forceinline__ void bar_arrive(int id, int n) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(n) : "memory"); }

__device__ __forceinline__ float pick(int q, float s0, float s1, float s2, float s3) { return q & 2 ? (q & 1 ? s3 : s2) : (q & 1 ? s1 : s0); }

/* row, row8 += rows g, g + 8 of slice q of an atom's product.  atom: this lane's codes in shared memory; lo, hi: where B's words of k16 steps 0, 1
 * and 2, 3 are. */
__device__ __forceinline__ void add_atom(float &row, float &row8, uint32_t atom, uint32_t lo, uint32_t hi, uint32_t merge, int lane)
{
	const int g = lane / 4, q = lane % 4;
	const uint4 x0 = lds128(lo), x1 = lds128(hi);
	const uint32_t x[8] = { x0.x, x0.y, x0.z, x0.w, x1.x, x1.y, x1.z, x1.w };
	const uint32_t scales = lds32(atom + MOE_ATOM_CODES + (8 * q + g) * 4 - lane * 16);
	uint4 code[4];
#pragma unroll
	for (int s = 0; s < 4; s++)
		code[s] = lds128(atom + s * 512);
	float d[4][4] = {};
#pragma unroll
	for (int s = 0; s < 4; s++) {
		uint32_t a[4][4];
		unpack(code[s].x, code[s].y, merge, a[0], a[1]);
		unpack(code[s].z, code[s].w, merge, a[2], a[3]);
#pragma unroll
		for (int t = 0; t < 4; t++)
			mma_bf16(d[s], a[t], x[2 * t], x[2 * t + 1]);
	}
	/* A word of scales: rows g, g + 8 of k group 0, and, bytes swapped, of group 1. */
	const uint32_t swapped = __byte_perm(scales, 0, 0x2301), field = 0x7F800000u;
	row = fmaf(pick(q, d[0][0], d[1][0], d[2][0], d[3][0]), __uint_as_float(scales << 16 & field), row);
	row = fmaf(pick(q, d[0][1], d[1][1], d[2][1], d[3][1]), __uint_as_float(swapped << 16 & field), row);
	row8 = fmaf(pick(q, d[0][2], d[1][2], d[2][2], d[3][2]), __uint_as_float(scales & field), row8);
	row8 = fmaf(pick(q, d[0][3], d[1][3], d[2][3], d[3][3]), __uint_as_float(swapped & field), row8);
}

/* QKV: and the next layer's qkv, of bf16 weights (1) or e4m3 (2). */
template <int QKV>
__global__ void __launch_bounds__(THREADS, 1) moe_experts_pair_kernel(const __grid_constant__ moe_pair_args a, const __grid_constant__ moe_pair_qkv p)
{
	extern __shared__ __align__(128) uint8_t raw[];
	__shared__ pair_expert experts[MAX_USED];
	__shared__ float4 parts[WARPS][BATCH];
	__shared__ __align__(16) uint32_t nothing[4];
	__shared__ uint64_t bars[5 + MAX_COLS]; /* sums of a row block: written, taken (two each); y is emptied; act of a column */
	__shared__ float rest[BATCH * 4];       /* what is added to the sums of this CTA's first channels of out */
	__shared__ float sums[2][WARPS][64];    /* of two row blocks */
	const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4, rank = blockIdx.x % 2;
	const uint32_t ring = smem_u32(raw) + warp * DEPTH * MOE_ATOM_BYTES + lane * 16, ring_last = ring + (DEPTH - 1) * MOE_ATOM_BYTES;
	const int k_atoms0 = a.e.p[0].k_atoms, k_atoms1 = a.e.p[1].k_atoms, blocks1 = a.e.p[1].row_blocks;
	const int k0 = k_atoms0 * warp / GATE_WARPS, n_k = warp < GATE_WARPS ? k_atoms0 * (warp + 1) / GATE_WARPS - k0 : 0;
	uint8_t *const acts = raw + RING + k_atoms0 * X_ATOM;
	const uint32_t xs = smem_u32(raw) + RING, zero = smem_u32(nothing);
	const uint32_t written = smem_u32(bars), taken = written + 16, emptied = written + 32;
	uint64_t *const ready = bars + 5;

	if constexpr (QKV == 0) pdl_launch();
	if (threadIdx.x < 4) nothing[threadIdx.x] = 0;
	if (threadIdx.x == 0) {
		for (int i = 0; i < 2; i++) {
			mbar_init(written + 8 * i, min(k_atoms0, GATE_WARPS) * 32);
			mbar_init(taken + 8 * i, 64);
		}
		mbar_init(emptied, 1);
	}
	if (threadIdx.x < MAX_COLS) {
		mbar_init(smem_u32(ready + threadIdx.x), 1);
		mbar_expect(smem_u32(ready + threadIdx.x), 64 * 2);
	}
	mbar_init_fence();
	cluster_arrive();
	/* The share: columns [c0, c0 + n_col) for both CTAs, of the down product atoms [i0, i1) of row blocks b0 .. for this warp.  Worked out before the
	 * wait for the case that every slot has an expert. */
	const int b0 = blocks1 * rank / 2, n_block = blocks1 * (rank + 1) / 2 - b0;
	int c0, n_col, i0, i1, n_gate, n_item;
	float by_col;
	const auto share = [&](int n_tile) {
		const uint32_t n = n_tile * k_atoms1, cluster = blockIdx.x / 2;
		c0 = divide(n * cluster, a.by_cluster);
		n_col = divide(n * (cluster + 1), a.by_cluster) - c0;
		by_col = __frcp_rn((float)n_col);
		/* Shares of 16 row blocks or more have parts of a row block in two warps at most. */
		i0 = n_block < WARPS ? n_block * warp / WARPS * n_col : n_block * n_col * warp / WARPS;
		i1 = n_block < WARPS ? n_block * (warp + 1) / WARPS * n_col : n_block * n_col * (warp + 1) / WARPS;
		n_gate = n_col * n_k;
		n_item = n_gate + i1 - i0;
	};
	/* Where item i of this warp lies: its tile, and the number of the atom in the expert's matrix. */
	const float by_k = __frcp_rn((float)n_k);
	const auto describe = [&](int i, int &tile) {
		const bool gate = i < n_gate;
		const int j = gate ? divide_small(i, by_k) : divide_small(i0 + i - n_gate, by_col), left = gate ? i - j * n_k : i0 + i - n_gate - j * n_col;
		const int col = c0 + (gate ? j : left);
		tile = min(divide(col, a.by_k_atoms1), MAX_USED - 1);
		const int k = col - tile * k_atoms1;
		return gate ? (2 * k + rank) * k_atoms0 + k0 + left : (b0 + j) * k_atoms1 + k;
	};
	share(a.e.n_used);
	pair_qkv::share rows = {};
	pair_qkv::loader rows_ld = {};
	if constexpr (QKV) {
		rows = pair_qkv::share_of(p, warp);
		rows_ld.begin(p, rows, lane);
	}
	int near_tile, near_base = 0; /* item that lane 0 describes */
	int near = describe(lane, near_tile);

	pdl_wait();
	if constexpr (QKV) pdl_launch(); /* of what writes K and V, in this order: cuda_ops.h */
	const int n_quad = a.e.n_embd / 4, u0 = divide(n_quad * blockIdx.x, a.by_grid), u1 = divide(n_quad * (blockIdx.x + 1), a.by_grid);
	float *const y = a.y + (size_t)(blockIdx.x / 2) * 2 * a.e.n_embd;
	if (warp == HELPER) { /* before the first weights are asked for: behind them the fence would take until they are there */
		for (int part = 0; part < 2; part++)
			for (int i = lane; i < n_block * 16; i += 32)
				*(uint4 *)(y + part * a.e.n_embd + b0 * 64 + i * 4) = make_uint4(EMPTY, EMPTY, EMPTY, EMPTY);
		if constexpr (QKV)
			for (int i = u0 + lane; i < u1; i += 32)
				*(uint2 *)(p.x + i * 2) = make_uint2(EMPTY, EMPTY);
		__syncwarp();
		if (lane == 0) red_release(&a.e.head->zero[0], 1);
	}
	/* Tables and x: one round trip.  Entries past n_tile and past the last sorted row are read but not used. */
	const int n_tile = __ldcg(&a.e.head->n_tile);
	const int expert = __ldcg(&a.e.tiles[min(lane, a.e.max_tile - 1)].expert);
	const int n_chunk = k_atoms0 * 8;
	uint4 chunk = {};
	if ((int)threadIdx.x < n_chunk && warp != HELPER) chunk = __ldcg(a.e.p[0].src + threadIdx.x);
	int slot_of = 0;
	if (warp == GATE_WARPS - 1 && lane < a.e.n_used) slot_of = __ldcg(a.e.sorted_pair + lane);
	if (n_tile != a.e.n_used) {
		share(n_tile);
		near = describe(lane, near_tile);
	}
	const auto place = [&] { /* number of the atom in its expert's matrix -> in all experts' */
		near += __shfl_sync(0xffffffff, expert, near_tile) * (lane + near_base < n_gate ? 2 * k_atoms1 * k_atoms0 : blocks1 * k_atoms1);
	};
	place();
	int next = 0;                      /* item to be loaded next */
	uint32_t slot = ring, fill = ring; /* of the item to be used, to be loaded next */
	const auto load = [&] {
		if (next < n_item) {
			if (next && (uint32_t)next % 32 == 0) {
				near_base = next;
				near = describe(next + lane, near_tile);
				place();
			}
			const int item = __shfl_sync(0xffffffff, near, (uint32_t)next % 32);
			const uint8_t *const from = (next < n_gate ? a.e.p[0].w : a.e.p[1].w) + (size_t)item * MOE_ATOM_BYTES + lane * 16;
			pair_qkv::copy_once<0, 0>(fill, from);
			pair_qkv::copy_once<512, 512>(fill, from);
			pair_qkv::copy_once<1024, 1024>(fill, from);
			pair_qkv::copy_once<1536, 1536>(fill, from);
			if (lane < 8) pair_qkv::copy_once<MOE_ATOM_CODES, MOE_ATOM_CODES>(fill, from);
		} else if constexpr (QKV) {
			rows_ld.ring(p, fill, lane);
		}
		cp_async_commit();
		next++;
		fill = fill == ring_last ? ring : fill + MOE_ATOM_BYTES;
	};
	if (warp != HELPER)
#pragma unroll 1
		for (int i = 0; i < DEPTH - 1; i++)
			load();

	if (warp == GATE_WARPS - 1 && lane < n_tile)
		experts[lane] = { expert, __ldcg(a.c.topk_w + slot_of), ld_const(a.e.p[0].mul + expert) * UNSCALE, ld_const(a.e.p[1].mul + expert) * UNSCALE };
	for (int i = threadIdx.x; i < n_chunk && warp != HELPER; i += GATE_WARPS * 32) { /* 16 bytes = k 8 i .. 8 i + 7 -> the words of lanes q = 0..3 */
		if (i != (int)threadIdx.x) chunk = __ldcg(a.e.p[0].src + i);
		const uint32_t at = xs + i / 8 * X_ATOM + i % 8 * 4;
		sts32(at, scale_x(chunk.x));
		sts32(at + 32, scale_x(chunk.y));
		sts32(at + 64, scale_x(chunk.z));
		sts32(at + 96, scale_x(chunk.w));
	}
	cluster_wait(); /* the other CTA's mbarriers are there */
	if (warp == HELPER) {
		bar_sync(2, THREADS);
	} else {
		bar_arrive(2, THREADS);
		bar_sync(1, GATE_WARPS * 32);
	}

	const uint32_t merge = mxfp4_merge_mask();
	const auto advance = [&] { /* returns the slot of the next item, landed */
		const uint32_t now = slot;
		cp_async_wait<DEPTH - 2>();
		__syncwarp();
		load();
		slot = now == ring_last ? ring : now + MOE_ATOM_BYTES;
		return now;
	};
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
		if (lane < BATCH * 4 && u0 * 4 + lane < u1 * 4) rest[lane] = rest_of(u0 * 4 + lane);
#pragma unroll 1
		for (int i = 0; i < DEPTH - 1; i++)
			load();
		if (lane == 0)
			while (ld_acquire(&a.e.head->zero[0]) < (int)gridDim.x)
				;
		__syncwarp();
		if (lane == 0) mbar_arrive(emptied);
	} else {
		/* Row block j of the share is finished by warps 2 j and 2 j + 1 (mod 14), 32 rows each, one row block late: then the others' sums are there. */
		float mul = 0, bias = 0;
		const auto finishes = [&](int j) { return warp < GATE_WARPS - 1 && j % (GATE_WARPS / 2) == warp / 2; };
		const int row = warp % 2 * 32 + lane, channel = rank * 32 + row / 16 * 8 + row % 8; /* of a row block; of a column */
		const auto prepare = [&](int j) {
			const int tile = divide(c0 + j, a.by_k_atoms1);
			mul = experts[tile].mul0;
			if (a.e.p[0].bias)
				bias = ld_const(a.e.p[0].bias + ((size_t)experts[tile].id * a.e.n_ff + (c0 + j - tile * k_atoms1) * 64 + channel) * 2 + row / 8 % 2);
		};
		const auto finish = [&](int j) {
			mbar_wait(written + j % 2 * 8, j / 2 & 1);
			float v = 0;
#pragma unroll
			for (int w = 0; w < GATE_WARPS; w++)
				if (k_atoms0 * (w + 1) / GATE_WARPS > k_atoms0 * w / GATE_WARPS) v += sums[j % 2][w][row];
			v = moe_restore(v, mul, bias);
			mbar_arrive(taken + j % 2 * 8);
			const float up = __shfl_xor_sync(0xffffffff, v, 8), h = moe_act(a.e, v, up), h1 = __shfl_xor_sync(0xffffffff, h, 1);
			if (row % 2 == 0 && row / 8 % 2 == 0) { /* two channels, to both CTAs */
				const int word = channel / 2;
				uint8_t *const to = acts + j * X_ATOM + word % 4 * 32 + word / 8 * 8 + word / 4 % 2 * 4;
				const float two = __uint_as_float(scale_x(moe_pack_bf16(h, h1)));
				for (int r = 0; r < 2; r++)
					cluster_store(cluster_address(to, r), two, cluster_address(ready + j, r));
			}
		};
#pragma unroll 1
		for (int j = 0; j < n_col; j++) {
			if (finishes(j)) prepare(j);
			if (n_k > 0) {
				float sum = 0, sum8 = 0;
				uint32_t x = xs + k0 * X_ATOM + q * 32 + g % 2 * 16;
#pragma unroll 1
				for (int k = 0; k < n_k; k++, x += X_ATOM)
					add_atom(sum, sum8, advance(), g % 2 ? zero : x, g % 2 ? x : zero, merge, lane);
				if (j > 1) mbar_wait(taken + j % 2 * 8, (j / 2 - 1) & 1);
				sums[j % 2][warp][16 * q + g] = sum;
				sums[j % 2][warp][16 * q + g + 8] = sum8;
				mbar_arrive(written + j % 2 * 8);
			}
			if (j > 0 && finishes(j - 1)) finish(j - 1);
		}
		if (n_col > 0 && finishes(n_col - 1)) finish(n_col - 1);
	}

	/* The down product. */
	int b = n_col ? divide_small(i0, by_col) : 0, c = i0 - b * n_col;
	bool part = c > 0; /* this row block's first columns are another warp's */
	float total = 0, total8 = 0;
#pragma unroll 1
	for (int i = i0; i < i1; i++) {
		inbox_wait(ready + c);
		const pair_expert e = experts[divide(c0 + c, a.by_k_atoms1)];
		const uint32_t x = smem_u32(acts) + c * X_ATOM + q * 32 + g % 2 * 16;
		float sum = 0, sum8 = 0;
		add_atom(sum, sum8, advance(), g % 2 ? zero : x, g % 2 ? x : zero, merge, lane);
		total = fmaf(e.w, moe_restore(sum, e.mul1, 0), total);
		total8 = fmaf(e.w, moe_restore(sum8, e.mul1, 0), total8);
		if (++c < n_col && i + 1 < i1) continue;
		float *const to = y + (b0 + b) * 64 + 16 * q + g;
		put_word(to + part * a.e.n_embd, total);
		put_word(to + part * a.e.n_embd + 8, total8);
		if (!part && c == n_col) { /* all of it is ours */
			put_word(to + a.e.n_embd, 0);
			put_word(to + a.e.n_embd + 8, 0);
		}
		total = total8 = 0;
		part = false;
		b++;
		c = 0;
	}
	if (n_block == 0) /* act comes all the same: not to a CTA that has left */
		for (int j = 0; j < n_col; j++)
			inbox_wait(ready + j);

	uint4 late[pair_qkv::LATE][4], norm = {};
	dense_at result = {};
	if constexpr (QKV) {
		__syncwarp();
		load(); /* the slot of the last atom */
#pragma unroll
		for (int i = 0; i < pair_qkv::LATE; i++)
			rows_ld.late(p, late[i], lane);
		if ((int)threadIdx.x < a.e.n_embd / 8) norm = __ldg(p.norm + threadIdx.x);
		result = pair_qkv::output_of(p);
	}

	/* This CTA's share of out: thread (row of y mod ROWS, float4). */
	constexpr int ROWS = THREADS / BATCH;
	const int n_row = gridDim.x; /* two a cluster */
	mbar_wait(emptied, 0);
#pragma unroll 1
	for (int u = u0; u < u1; u += BATCH) {
		const int quad = u + threadIdx.x % BATCH;
		float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 1
		for (int r0 = threadIdx.x / BATCH; r0 < n_row; r0 += 4 * ROWS) {
			bool on[4];
#pragma unroll
			for (int j = 0; j < 4; j++) { /* clusters without a column write nothing */
				const int r = r0 + j * ROWS, n = n_tile * k_atoms1;
				on[j] = quad < u1 && r < n_row && divide(n * (r / 2 + 1), a.by_cluster) > divide(n * (r / 2), a.by_cluster);
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
		if (lane < BATCH) parts[warp][lane] = sum;
		__syncthreads();
		const int ch = u * 4 + threadIdx.x;
		if (threadIdx.x < BATCH * 4 && ch < u1 * 4) {
			float v = 0;
#pragma unroll
			for (int w = 0; w < WARPS; w++)
				v += ((const float *)parts[w])[threadIdx.x];
			v = fmaf(v, a.c.scale, u == u0 ? rest[threadIdx.x] : rest_of(ch));
			if constexpr (QKV) {
				const float odd = __shfl_down_sync(__activemask(), v, 1); /* channels come in fours */
				if (ch % 2 == 0) put_word(p.x + ch / 2, moe_pack_bf16(v, odd));
			}
			a.c.out[ch] = __float2bfloat16(v);
		}
		__syncthreads();
	}
	if constexpr (QKV) {
		pair_qkv::take_norm<QKV == 2>(p, a.e.n_embd, xs, norm, (float *)parts);
		cp_async_wait<0>();
		pair_qkv::multiply<QKV == 2>(p, rows, xs, slot, ring, ring_last, MOE_ATOM_BYTES, late, &sums[0][0][0], warp, lane);
		__syncthreads();
		pair_qkv::put(p, result, &sums[0][0][0]);
	}
}

const void *const moe_pair_kernel[3] = { (const void *)moe_experts_pair_kernel<0>, (const void *)moe_experts_pair_kernel<1>, (const void *)moe_experts_pair_kernel<2> };
const int moe_pair_threads = THREADS;

bool moe_pair_qkv_plan(struct moe_pair_qkv *p, const struct dense_job *j, const void *norm, float eps, int n_cta)
{
	*p = {};
	if (j->norm || !j->out.qkv || j->out.n_tok != 1 || j->n_in % 64 || j->n_in > THREADS * 8) return false;
	p->out = j->out;
	dense_rows_plan(&p->rows, &j->out, n_cta, 64);
	p->w = (const uint8_t *)j->w, p->norm = (const uint4 *)norm, p->eps = eps;
	p->f8 = j->f8, p->row_bytes = j->n_in * (j->f8 ? 1 : 2), p->n_k = (p->row_bytes + pair_qkv::PIECE - 1) / pair_qkv::PIECE;
	return p->rows.n_tile <= n_cta && p->rows.n_box * p->n_k <= WARPS * (pair_qkv::RINGED + pair_qkv::LATE);
}

uint32_t moe_pair_divisor(int d) { return d == 1 ? 0 : (uint32_t)(((1ull << 32) + d - 1) / d); }

int moe_pair_smem(int n_used, int n_embd, int n_ff, int n_cluster)
{
	const int64_t cols = (int64_t)n_used * (n_ff / 64), most = (cols + n_cluster - 1) / n_cluster;
	/* Products that divide() must get right: n d < 2^32.  divide_small: numbers of atoms below 2^16. */
	const bool fits = n_used <= MAX_USED && most <= MAX_COLS && cols * n_cluster * n_cluster < 1ll << 32 && most * (n_embd / 64) < 1 << 16;
	/* x, then act; at the end x of qkv, in whole pieces. */
	const int64_t x = (n_embd / 64 + most) * X_ATOM, x_qkv = (n_embd + 255) / 256 * 512, all = RING + (x > x_qkv ? x : x_qkv);
	return fits && all < INT32_MAX ? (int)all : INT32_MAX;
}
int moe_pair_smem_static(void)
{
	return (int)(sizeof(pair_expert) * MAX_USED + sizeof(float4) * WARPS * BATCH + 16 + 8 * (5 + MAX_COLS) + 16 * BATCH + 4 * 2 * WARPS * 64 + 256);
}

int moe_pair_clusters(int smem)
{
	cudaLaunchConfig_t c = {};
	cudaLaunchAttribute at;
	int n = 0;
	at.id = cudaLaunchAttributeClusterDimension;
	at.val.clusterDim.x = 2, at.val.clusterDim.y = at.val.clusterDim.z = 1;
	c.gridDim = dim3(2), c.blockDim = dim3(THREADS), c.dynamicSmemBytes = smem, c.attrs = &at, c.numAttrs = 1;
	if (cudaOccupancyMaxActiveClusters(&n, moe_experts_pair_kernel<1>, &c) != cudaSuccess) {
		cudaGetLastError();
		return 0;
	}
	return n;
}
