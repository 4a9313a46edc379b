/* dense_small - a dense product for few tokens: bound by reading the weights once.
 *
 *   P[n][t] = sum_k w[n][k] x[t][k], then dense_out.cuh       w [n_out, n_in] bf16 or e4m3   x [n_tok, n_in] bf16
 *
 * Weights are the M operand of mma.m16n8k16, tokens N.  A CTA makes `rows` rows (at most 64) x 8*NT tokens over the whole of K,
 * so nothing is joined between CTAs; where one row block a CTA covers n_out, rows is the exact share n_out / n_sm and only
 * the multiplying is padded.  K is cut in chunks of 128 bytes of a row, 64 bf16 or 128 e4m3: warp w takes chunks w, w + 8, ... and keeps a ring of its own,
 * which its first lane refills by TMA as soon as the warp has read a stage: there is no producer and no empty barrier.
 * Before pdl_wait the rings are filled with weights; a ninth warp asks for the activations that go with them.
 *
 * e4m3 (F8): one instruction makes fp16 of two codes, exactly, and the mma is that of fp16; to bf16 it takes four and more, and they stand
 * behind the last activation.  Activations become fp16 as well: exact from 2^-17 to 65504, with NORM, whose rows are still to be divided by
 * their length, 2^-8 times as large: from 2^-9 to 2^24.  Smaller ones are off by 2^-25 (2^-17) at most.  Codes lie as dense_f8.cu says: a word of
 * ldmatrix is one lane's part of a row and k16.  A row's scale is applied where its sum leaves.
 *
 * Boxes of rows: dense_rows.cuh.  Rows up to a multiple of 16 and tokens up to one of 8 repeat others: nobody stores their sums.
 * Needs n_in % 32 == 0 (a last half chunk reads as zeros), qkv: d_head % 8 == 0.
 * Numerics: a warp adds its chunks in order in fp32, the 8 sums are joined as a balanced tree: the same for every n_tok.
 * Cost: reads w once for each 32 tokens, x once for each row block, kept for the next ones: once a CTA (from L2); floor 2 (e4m3: 1) n_out n_in bytes / 4.4 TB/s (H200).
 * Test: build/cuda/test_dense    Bench: build/cuda/bench_dense
 */
#include "dense_rows.cuh"
#include "device/launch.cuh"
#include "device/ptx.cuh"
#include "kernels/cuda/dense.h"

constexpr int WARPS = 8, MATH = 32 * WARPS, THREADS = MATH + 32, ROW_BYTES = 128, ROWS_MAX = 64;
constexpr int X_CHUNK = 64; /* k of a box of activations */
/* k of a chunk, and the boxes of activations that hold them. */
__host__ __device__ constexpr int chunk_of(bool f8) { return f8 ? 128 : 64; }
__host__ __device__ constexpr int boxes_of(bool f8) { return chunk_of(f8) / X_CHUNK; }

struct small_param {
	struct dense_out out;
	const uint4 *norm;           /* [n_in] bf16, or NULL */
	float eps;
	int n_in, n_chunk;           /* k, in chunks */
	struct dense_rows rows;
	int depth;                   /* stages of a warp's ring */
	bool keep_x;                 /* activations of a chunk stay for all row blocks, in a place of their own; else in the ring */
	int w_stage, x_stage, x_box; /* bytes; x_stage: of one box of activations; x_box: its tokens, a power of two */
	/* Shared memory, bytes from its beginning: activations, norm weights, sums of warp 0, barriers; floats from a warp's sums to the next's. */
	int x_at, norm_at, red_at, bar_at, red_step;
};

/* 16-byte piece c of the 128-byte row at address a, swizzled as TMA does: by the row's number in its kilobyte. */
__device__ __forceinline__ uint32_t swizzled(uint32_t a, int c) { return a + ((c ^ (a >> 7 & 7)) << 4); }

__host__ __device__ constexpr int red_row(int nt) { return 8 * nt + 1; } /* floats; odd: a column of rows touches every bank */

/* Where a lane's ldmatrix rows lie in a stage, bytes: rows that no box loaded and tokens that none asked for are read from ones
 * that are there. */
template <int MT, int NT> struct lane_rows {
	uint32_t w[MT], x[NT];
	__device__ lane_rows(int rows, int x_box)
	{
		const int r = threadIdx.x & 7, j = threadIdx.x >> 3 & 3;
#pragma unroll
		for (int m = 0; m < MT; m++)
			w[m] = min(m * 16 + (j & 1) * 8 + r, rows - 1) * ROW_BYTES;
#pragma unroll
		for (int n = 0; n < NT; n++)
			x[n] = ((n * 8 + r) & (x_box - 1)) * ROW_BYTES;
	}
};

constexpr uint32_t NORM_DOWN = 0x3b803b80u; /* 2^-8, twice: F8 with NORM */
constexpr float NORM_UP = 256;

/* bf16 to fp16, two at once. */
__device__ __forceinline__ uint32_t half_of(uint32_t u)
{
	const float hi = __uint_as_float(u & 0xffff0000u), lo = __uint_as_float(u << 16);
	return pack_f16(lo, hi);
}

/* b: fragments of activations of 32 k, for k16 0 and 1, F8: as fp16.  NORM: their squares are added to sq, then they are multiplied by the
 * weights at norm. */
template <int NT, bool NORM, bool F8>
__device__ __forceinline__ void x_fragments(uint32_t (&b)[NT][4], float (&sq)[NT], const uint32_t (&row)[NT], uint32_t x, int piece, uint32_t norm)
{
#pragma unroll
	for (int n = 0; n < NT; n++)
		ldmatrix4(b[n], swizzled(x + row[n], piece + (threadIdx.x >> 3 & 3)));
	if constexpr (NORM) {
#pragma unroll
		for (int i = 0; i < 4; i++) {
			const uint32_t f = F8 ? mul_bf16x2(lds32(norm + i * 16), NORM_DOWN) : lds32(norm + i * 16);
#pragma unroll
			for (int n = 0; n < NT; n++) {
				const float lo = __uint_as_float(b[n][i] << 16), hi = __uint_as_float(b[n][i] & 0xffff0000u);
				sq[n] = fmaf(lo, lo, sq[n]), sq[n] = fmaf(hi, hi, sq[n]);
				b[n][i] = mul_bf16x2(b[n][i], f);
			}
		}
	}
	if constexpr (F8)
#pragma unroll
		for (int n = 0; n < NT; n++)
#pragma unroll
			for (int i = 0; i < 4; i++)
				b[n][i] = half_of(b[n][i]);
}

/* Four codes to two pairs of fp16. */
__device__ __forceinline__ void widen(uint32_t w, uint32_t *lo, uint32_t *hi)
{
	asm("{ .reg .b16 l, h; mov.b32 {l, h}, %2; cvt.rn.f16x2.e4m3x2 %0, l; cvt.rn.f16x2.e4m3x2 %1, h; }" : "=r"(*lo), "=r"(*hi) : "r"(w));
}

/* acc += the chunk in stage (w, x); x_stage: bytes from one box of activations to the next. */
template <int MT, int NT, bool NORM, bool F8>
__device__ __forceinline__ void chunk_mma(float (&acc)[MT][NT][4], float (&sq)[NT], const lane_rows<MT, NT> &at, uint32_t w, uint32_t x, int x_stage,
                                          uint32_t norm)
{
	const int j = threadIdx.x >> 3 & 3;
#pragma unroll
	for (int h = 0; h < chunk_of(F8) / 32; h++) { /* 32 k */
		uint32_t b[NT][4];
		x_fragments<NT, NORM, F8>(b, sq, at.x, x + h / 2 * x_stage, h % 2 * 4, norm + h * 64);
#pragma unroll
		for (int m = 0; m < MT; m++) {
			uint32_t a[2][4];
			if constexpr (F8) {
				uint32_t c[4]; /* rows g and g + 8 of k16 0, then of k16 1 */
				ldmatrix4(c, swizzled(w + at.w[m], h * 2 + (j >> 1)));
#pragma unroll
				for (int s = 0; s < 2; s++)
					widen(c[2 * s], &a[s][0], &a[s][2]), widen(c[2 * s + 1], &a[s][1], &a[s][3]);
			} else {
#pragma unroll
				for (int s = 0; s < 2; s++)
					ldmatrix4(a[s], swizzled(w + at.w[m], (h * 2 + s) * 2 + (j >> 1)));
			}
#pragma unroll
			for (int s = 0; s < 2; s++)
#pragma unroll
				for (int n = 0; n < NT; n++)
					if constexpr (F8)
						mma_f16(acc[m][n], a[s], b[n][2 * s], b[n][2 * s + 1]);
					else
						mma_bf16(acc[m][n], a[s], b[n][2 * s], b[n][2 * s + 1]);
		}
	}
}

/* The activations of a chunk. */
template <bool F8>
__device__ __forceinline__ void x_load(uint32_t to, const CUtensorMap *xm, int chunk, int t0, uint32_t bar, int x_stage, uint64_t policy)
{
#pragma unroll
	for (int i = 0; i < boxes_of(F8); i++)
		tma_load3(to + i * x_stage, xm, chunk * chunk_of(F8) + i * X_CHUNK, t0, 0, bar, policy);
}

/* One warp's ring, and the list of chunks it walks: chunk w, w + 8, ... of its CTA's row blocks. */
template <bool F8> struct ring {
	const CUtensorMap *wm, *xm;
	uint32_t w, x, bar;
	int t0, tile, chunk; /* the next chunk to load */
	__device__ void skip(const small_param &p)
	{
		chunk += WARPS;
		if (chunk >= p.n_chunk) {
			chunk = threadIdx.x / 32;
			tile += gridDim.x;
		}
	}
	__device__ bool wants_x(const small_param &p) const { return !p.keep_x || tile == (int)blockIdx.x; }
	__device__ bool more(const small_param &p) const { return tile < p.rows.n_tile && chunk < p.n_chunk; }
	__device__ void load_w(const small_param &p, int s, uint64_t policy) const
	{
		mbar_expect(bar + 8 * s, p.rows.n_box * p.rows.box_rows * ROW_BYTES + (wants_x(p) ? boxes_of(F8) * p.x_box * ROW_BYTES : 0));
		for (int i = 0; i < p.rows.n_box; i++) {
			const struct dense_box b = dense_box_at(&p.rows, tile * p.rows.n_box + i);
			tma_load3(w + s * p.w_stage + i * p.rows.box_rows * ROW_BYTES, wm, chunk * chunk_of(F8), b.y, b.z, bar + 8 * s, policy);
		}
	}
	__device__ void load_x(const small_param &p, int s, uint64_t policy) const
	{
		if (wants_x(p))
			x_load<F8>(x + (p.keep_x ? chunk : s) * boxes_of(F8) * p.x_stage, xm, chunk, t0, bar + 8 * s, p.x_stage, policy);
	}
};

enum { BAR_MATH = 1, BAR_NORM }; /* named barriers: of the warps that multiply; norm weights lie in shared memory */

/* Sum over the warps of element i of their sums. */
__device__ __forceinline__ float warps_sum(const float *p, int stride)
{
	return ((p[0] + p[stride]) + (p[2 * stride] + p[3 * stride])) + ((p[4 * stride] + p[5 * stride]) + (p[6 * stride] + p[7 * stride]));
}

template <int MT, int NT, bool NORM, bool F8>
__global__ void __launch_bounds__(THREADS, 1)
dense_small_kernel(const __grid_constant__ CUtensorMap wm, const __grid_constant__ CUtensorMap xm, const __grid_constant__ small_param p)
{
	extern __shared__ uint8_t shared[];
	uint8_t *const base = shared + (-smem_u32(shared) & 1023);
	const int warp = threadIdx.x / 32, lane = threadIdx.x & 31;
	const int n_stage = WARPS * p.depth;
	uint8_t *const x_at = base + p.x_at;
	float *const red = reinterpret_cast<float *>(base + p.red_at);
	const uint32_t bars = smem_u32(base + p.bar_at);
	__shared__ float squares[NORM ? WARPS : 1][8 * NT]; /* of activations, [warp][token] */
	constexpr int CHUNK = chunk_of(F8);
	const int x_step = boxes_of(F8) * p.x_stage; /* bytes of a stage's activations */
	ring<F8> ld = { &wm, &xm, smem_u32(base) + warp * p.depth * p.w_stage, smem_u32(x_at) + (p.keep_x ? 0 : warp * p.depth * x_step), bars + 8 * warp * p.depth,
		    (int)blockIdx.y * p.x_box, (int)blockIdx.x, warp };

	if (!p.out.qkv)
		pdl_launch();
	const uint64_t once = l2_evict_first(), keep = l2_evict_last();
	if (warp < WARPS && lane == 0) {
		for (int s = 0; s < p.depth; s++)
			mbar_init(ld.bar + 8 * s, 1);
		mbar_init_fence();
	}
	__syncthreads();
	if (warp == WARPS) {
		/* Activations of every ring's first stages, by a warp of its own: it may be let go before all weights are asked for. */
		if (lane == 0)
			tma_prefetch_map(&xm);
		if constexpr (NORM) {
			/* Fetched while the others ask for weights: asked for before, it would keep them waiting for a trip to memory. */
#pragma unroll 4
			for (int i = lane; i < p.n_chunk * (CHUNK / 8); i += 32)
				reinterpret_cast<uint4 *>(base + p.norm_at)[i] = i < p.n_in / 8 ? __ldg(p.norm + i) : make_uint4(0, 0, 0, 0);
			__syncwarp();
			named_arrive<THREADS>(BAR_NORM);
		}
		pdl_wait();
		pdl_launch(); /* of what writes K and V: attention counts on this order, see cuda_ops.h */
		for (int i = lane; i < n_stage; i += 32) {
			const int w = i % WARPS, s = i / WARPS, n = (p.n_chunk - w + WARPS - 1) / WARPS, round = n > 0 ? s / n : 0;
			const int at = w * p.depth + s;
			const int chunk = w + (s - round * n) * WARPS;
			if (n > 0 && (int)blockIdx.x + round * (int)gridDim.x < p.rows.n_tile && (round == 0 || !p.keep_x))
				x_load<F8>(smem_u32(x_at) + (p.keep_x ? chunk : at) * x_step, &xm, chunk, ld.t0, bars + 8 * at, p.x_stage, keep);
		}
		return;
	}
	if (lane == 0)
		for (int s = 0; s < p.depth && ld.more(p); s++, ld.skip(p))
			ld.load_w(p, s, once);
	pdl_wait();
	__syncwarp();
	const int n_tok = min(p.x_box, p.out.n_tok - ld.t0), n_item = dense_rows_count(p.out, p.rows, n_tok);
	struct dense_item early = {}; /* this thread's first output */
	if ((int)threadIdx.x < n_item)
		early = dense_item_at(p.out, p.rows, blockIdx.x, ld.t0, threadIdx.x);

	const lane_rows<MT, NT> at(p.rows.rows, p.x_box);
	const uint32_t norm = smem_u32(base + p.norm_at) + (lane & 3) * 4;
	if constexpr (NORM)
		named_barrier<THREADS>(BAR_NORM);
	int s = 0, parity = 0;
	for (int tile = blockIdx.x; tile < p.rows.n_tile; tile += gridDim.x) {
		float acc[MT][NT][4] = {}, sq[NT] = {};
		for (int c = warp; c < p.n_chunk; c += WARPS) {
			mbar_wait(ld.bar + 8 * s, parity);
			chunk_mma<MT, NT, NORM, F8>(acc, sq, at, ld.w + s * p.w_stage, ld.x + (p.keep_x ? c : s) * x_step, p.x_stage, norm + c * (CHUNK * 2));
			__syncwarp();
			if (lane == 0 && ld.more(p)) {
				ld.load_w(p, s, once);
				ld.load_x(p, s, keep);
				ld.skip(p);
			}
			if (++s == p.depth) {
				s = 0;
				parity ^= 1;
			}
		}
		const int g = lane / 4, q = lane & 3;
		float *const mine = red + warp * p.red_step + g * red_row(NT) + q * 2;
		if (tile != (int)blockIdx.x)
			named_barrier<MATH>(BAR_MATH); /* the sums of the row block before have been read */
#pragma unroll
		for (int m = 0; m < MT; m++)
#pragma unroll
			for (int n = 0; n < NT; n++)
#pragma unroll
				for (int i = 0; i < 4; i++)
					mine[(m * 16 + (i >> 1) * 8) * red_row(NT) + n * 8 + (i & 1)] = acc[m][n][i];
		if constexpr (NORM) {
#pragma unroll
			for (int n = 0; n < NT; n++) {
				sq[n] += __shfl_xor_sync(~0u, sq[n], 1);
				sq[n] += __shfl_xor_sync(~0u, sq[n], 2);
				if (q == 0)
					squares[warp][n * 8 + g] = sq[n];
			}
		}
		named_barrier<MATH>(BAR_MATH);
		for (int i = threadIdx.x; i < n_item; i += MATH) {
			const bool known = i == (int)threadIdx.x && tile == (int)blockIdx.x;
			const struct dense_item it = known ? early : dense_item_at(p.out, p.rows, tile, ld.t0, i);
			const float *const sum = red + it.r * red_row(NT) + it.t;
			if (!it.place.to)
				continue;
			float scale = 1;
			if constexpr (NORM)
				scale = (F8 ? NORM_UP : 1) / sqrtf(warps_sum(&squares[0][it.t], 8 * NT) / (float)p.n_in + p.eps);
			if (p.out.qkv)
				dense_put(it.place, scale * warps_sum(sum, p.red_step), scale * warps_sum(sum + 4 * red_row(NT), p.red_step));
			else
				dense_put(it.place, scale * warps_sum(sum, p.red_step));
		}
	}
}

typedef void (*small_kernel)(CUtensorMap, CUtensorMap, small_param);
template <int NT, bool NORM, bool F8> static small_kernel kernel_of(int mt)
{
	if constexpr (NT < (F8 ? 2 : 4))
		if (mt == 4)
			return dense_small_kernel<4, NT, NORM, F8>;
	return mt == 1   ? dense_small_kernel<1, NT, NORM, F8>
	       : mt == 2 ? dense_small_kernel<2, NT, NORM, F8>
	                 : dense_small_kernel<3, NT, NORM, F8>;
}
template <bool NORM, bool F8> static small_kernel kernel_of(int nt, int mt)
{
	return nt == 1 ? kernel_of<1, NORM, F8>(mt) : nt == 2 ? kernel_of<2, NORM, F8>(mt) : kernel_of<4, NORM, F8>(mt);
}
static small_kernel kernel_of(const struct dense_job *j, int nt, int mt)
{
	return j->f8 ? j->norm ? kernel_of<true, true>(nt, mt) : kernel_of<false, true>(nt, mt)
	             : j->norm ? kernel_of<true, false>(nt, mt) : kernel_of<false, false>(nt, mt);
}

/* Boxes, row blocks and ring for this product; false where shared memory is too small for even one stage a warp. */
static void small_plan(const struct cuda_dev *d, const struct dense_job *j, int nt, small_param *p, size_t *shared_bytes)
{
	const struct dense_out *const o = &j->out;
	p->out = *o;
	const int chunk = chunk_of(j->f8);
	p->n_chunk = (j->n_in + chunk - 1) / chunk;
	dense_rows_plan(&p->rows, o, d->n_sm, nt >= (j->f8 ? 2 : 4) ? 48 : ROWS_MAX); /* 48: leaves room for a ring of two stages a warp */
	p->x_box = 1;
	while (p->x_box < 8 * nt && p->x_box < o->n_tok)
		p->x_box *= 2;
	p->w_stage = p->rows.rows * ROW_BYTES; /* swizzling goes by address: a stage need not start at a kilobyte */
	p->x_stage = p->x_box * ROW_BYTES;
	const int mt = (p->rows.rows + 15) / 16, n_cta = p->rows.n_tile < d->n_sm ? p->rows.n_tile : d->n_sm;
	const int most = (p->n_chunk + WARPS - 1) / WARPS * ((p->rows.n_tile + n_cta - 1) / n_cta);
	const bool short_lived = p->rows.n_tile <= n_cta; /* one row block a CTA: others want to start beside it */
	const int sums = mt * 16 * red_row(nt) * 4, norm_bytes = j->norm ? p->n_chunk * chunk * 2 : 0, x_step = boxes_of(j->f8) * p->x_stage;
	p->norm = static_cast<const uint4 *>(j->norm), p->eps = j->eps, p->n_in = j->n_in;
	/* With one row block a warp's sums take the place of its ring. */
	bool apart = !short_lived;
	/* Where row blocks follow each other activations stay, if a ring of two stages does. */
	const size_t kept = (size_t)p->n_chunk * x_step, room2 = d->shared_per_block - (j->norm ? WARPS * 8 * nt * 4 : 0);
	p->keep_x = j->f8 && !short_lived && 1024 + norm_bytes + WARPS * (size_t)sums + kept + 2 * WARPS * (size_t)(p->w_stage + 8) <= room2;
	for (;; apart = true) {
		const size_t fixed = 1024 + norm_bytes + (apart ? (size_t)WARPS * sums : 0) + (p->keep_x ? kept : 0);
		const size_t stage = WARPS * (size_t)(p->w_stage + (p->keep_x ? 0 : x_step) + 8);
		const size_t limit = short_lived && j->shared_max && j->shared_max < d->shared_per_block ? j->shared_max : d->shared_per_block;
		const size_t room = limit - (j->norm ? (size_t)WARPS * 8 * nt * 4 : 0);
		p->depth = room > fixed + stage ? (int)((room - fixed) / stage) : 1;
		p->depth = p->depth < most ? p->depth : most;
		*shared_bytes = fixed + p->depth * stage;
		if (apart || p->depth * p->w_stage >= sums)
			break;
	}
	const int n_stage = WARPS * p->depth;
	p->x_at = n_stage * p->w_stage;
	p->norm_at = p->x_at + (p->keep_x ? p->n_chunk : n_stage) * x_step;
	p->red_at = apart ? p->norm_at + norm_bytes : 0;
	p->red_step = (apart ? sums : p->depth * p->w_stage) / 4;
	p->bar_at = p->norm_at + norm_bytes + (apart ? WARPS * sums : 0);
}

extern "C" cudaError_t dense_small(const struct cuda_dev *d, const struct dense_job *j)
{
	const struct dense_out *const o = &j->out;
	const int nt = o->n_tok <= 8 ? 1 : o->n_tok <= 16 ? 2 : 4;
	small_param p;
	size_t shared_bytes;
	small_plan(d, j, nt, &p, &shared_bytes);
	const int mt = (p.rows.rows + 15) / 16;
	const small_kernel k = kernel_of(j, nt, mt);
	CUtensorMap wm, xm;
	cudaError_t rc = dense_rows_map(&wm, j, &p.rows);
	if (!rc)
		rc = dense_map(&xm, j->x, j->n_in, o->n_tok, 1, p.x_box, 1);
	if (!rc)
		rc = cudaFuncSetAttribute(reinterpret_cast<const void *>(k), cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
	if (rc)
		return rc;
	const dim3 grid(p.rows.n_tile < d->n_sm ? p.rows.n_tile : d->n_sm, (o->n_tok + p.x_box - 1) / p.x_box);
	return cuda_launch(k, grid, dim3(THREADS), shared_bytes, d->stream, wm, xm, p);
}
