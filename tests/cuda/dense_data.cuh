/* dense_data.cuh - the device, operands and double oracle that test and bench of the dense products share. */
#ifndef MOXIE_TESTS_DENSE_DATA_CUH
#define MOXIE_TESTS_DENSE_DATA_CUH

#include "cap.cuh"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/dense.h"
#include "moe_data.cuh"

/* n bf16 (or f32) near normal with deviation `scale`. */
__global__ void dense_fill(void *p, int64_t n, uint64_t seed, float scale, bool f32)
{
	for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
		const uint32_t h = hash32(seed * 0x9E3779B97F4A7C15ull + (uint64_t)i);
		const float v = ((int)((h & 255) + (h >> 8 & 255) + (h >> 16 & 255) + (h >> 24)) - 510) / 148.f * scale;
		if (f32)
			static_cast<float *>(p)[i] = v;
		else
			static_cast<__nv_bfloat16 *>(p)[i] = __float2bfloat16(v);
	}
}

static inline struct weight dense_weight(int64_t n, int64_t k, uint64_t seed, float scale, bool f32 = false)
{
	struct weight w = {};
	w.dtype = f32 ? DT_F32 : DT_BF16;
	w.n_dim = k ? 2 : 1;
	w.shape[0] = n, w.shape[1] = k;
	const int64_t count = n * (k ? k : 1);
	void *const p = device_alloc(count * (f32 ? 4 : 2));
	dense_fill<<<1024, 256>>>(p, count, seed, scale, f32);
	CU(cudaGetLastError());
	w.data = p;
	return w;
}

/* w [n, k] bf16 as e4m3; w stays. */
static inline struct weight dense_weight_f8(const struct weight &w)
{
	struct weight f = w;
	uint8_t *const code = (uint8_t *)device_alloc(w.shape[0] * w.shape[1]);
	float *const scl = (float *)device_alloc(w.shape[0] * 4);
	CU(dense_f8_pack(code, scl, w.data, w.shape[0], (int)w.shape[1], 0));
	f.dtype = DT_F8_E4M3, f.data = code, f.row_scl = scl;
	return f;
}
static inline void dense_weight_f8_free(const struct weight &f)
{
	CU(cudaFree((void *)f.data));
	CU(cudaFree((void *)f.row_scl));
}

static inline void dense_device(struct cuda_dev *d, const struct kern_limits *lim, bool with_lib)
{
	*d = {};
	capped_device(d);
	CU(cudaStreamCreate(&d->stream));
	if (lim->dense == DT_F8_E4M3 && !d->portable) {
		struct moxie_err e;
		if (cuda_dense_f8_open(d, lim, &e)) {
			fprintf(stderr, "%s\n", e.text);
			exit(1);
		}
	}
	if (with_lib)
		cuda_dense_open(d, lim);
	d->scratch_bytes = cuda_dense_scratch(d, lim);
	d->scratch = device_alloc(d->scratch_bytes);
}

static inline void dense_device_free(struct cuda_dev *d)
{
	cuda_dense_close(d);
	cuda_dense_f8_close(d);
	CU(cudaFree(d->scratch));
	CU(cudaStreamDestroy(d->stream));
}

__device__ inline double oracle_value(const void *p, bool f32, int64_t i)
{
	return f32 ? static_cast<const float *>(p)[i] : __bfloat162float(static_cast<const __nv_bfloat16 *>(p)[i]);
}

/* want[t][n] = sum_k w[n][k] x[t][k] + b[n] + old[t][n], in double */
__global__ void oracle_gemm(double *want, const __nv_bfloat16 *x, const __nv_bfloat16 *w, const void *b, bool b_f32, const void *old,
    bool old_f32,
                            int n_tok, int n_out, int n_in)
{
	const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
	if (i >= (int64_t)n_tok * n_out)
		return;
	const int64_t t = i / n_out, n = i % n_out;
	double s = 0;
	for (int k = 0; k < n_in; k++)
		s += (double)__bfloat162float(w[n * n_in + k]) * (double)__bfloat162float(x[t * n_in + k]);
	if (b)
		s += oracle_value(b, b_f32, n);
	if (old)
		s += oracle_value(old, old_f32, i);
	want[i] = s;
}

#endif
