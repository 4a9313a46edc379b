/* dense_lib.cu - dense products by cuBLASLt, for many tokens.
 *
 *   D [n_tok, n_out] bf16 or f32 = x [n_tok, n_in] bf16 . w [n_out, n_in]^T bf16, + bias, + residual (gemm) or into scratch (qkv)
 *
 * The library is opened by name, so nothing links against it.  Handle and algorithms (one for each power of two of n_tok, for
 * the model's three products) are made when the device is opened; a call copies the product's description to the stack to
 * put the bias pointer in, and allocates nothing.  Column-major as the library has it: D^T = W x^T.
 * Test: build/cuda/test_dense lib    Bench: build/cuda/bench_dense --kernel lib
 */
#include <cublasLt.h>
#include <dlfcn.h>
#include <new>

#include "kernels/cuda/dense.h"

#define FUNCTIONS(F)                                                                                                        \
	F(cublasLtCreate) F(cublasLtDestroy) F(cublasLtMatmul) F(cublasLtMatmulAlgoGetHeuristic) F(cublasLtMatmulDescInit_internal) \
	F(cublasLtMatmulDescSetAttribute) F(cublasLtMatrixLayoutInit_internal) F(cublasLtMatmulPreferenceInit_internal)     \
	F(cublasLtMatmulPreferenceSetAttribute)

constexpr int N_PRODUCT = 6, N_BUCKET = 24; /* n_tok up to 2^23 */
constexpr int N_OFFER = 8, FEW_TOK = 256;
constexpr uint64_t WS_MAX = 32 << 20;
constexpr uint32_t ALIGN = 16; /* of operands, bytes */

struct product {
	int n_out, n_in;
	bool add, d_f32, bias;
	cublasLtMatmulDescOpaque_t desc;
	cublasLtMatmulAlgo_t algo[N_BUCKET];
	bool served[N_BUCKET];
};

struct dense_lib {
	void *so;
	cublasLtHandle_t handle;
#define F(name) decltype(&::name) name;
	FUNCTIONS(F)
#undef F
	struct product p[N_PRODUCT];
	size_t ws_bytes;
};

static int bucket_of(int n_tok)
{
	int b = 0;
	while (b < N_BUCKET - 1 && 1 << b < n_tok)
		b++;
	return b;
}

static bool layouts(const struct dense_lib *l, const struct product *p, int n_tok, cublasLtMatrixLayoutOpaque_t (&m)[3])
{
	const cudaDataType_t d = p->d_f32 ? CUDA_R_32F : CUDA_R_16BF;
	return !l->cublasLtMatrixLayoutInit_internal(&m[0], sizeof m[0], CUDA_R_16BF, p->n_in, p->n_out, p->n_in) &&
	       !l->cublasLtMatrixLayoutInit_internal(&m[1], sizeof m[1], CUDA_R_16BF, p->n_in, n_tok, p->n_in) &&
	       !l->cublasLtMatrixLayoutInit_internal(&m[2], sizeof m[2], d, p->n_out, n_tok, p->n_out);
}

static bool describe(const struct dense_lib *l, struct product *p)
{
	const cublasOperation_t t = CUBLAS_OP_T;
	const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
	const int type = CUDA_R_16BF;
	cublasLtMatmulDescOpaque_t *const d = &p->desc;
	if (l->cublasLtMatmulDescInit_internal(d, sizeof *d, CUBLAS_COMPUTE_32F, CUDA_R_32F) ||
	    l->cublasLtMatmulDescSetAttribute(d, CUBLASLT_MATMUL_DESC_TRANSA, &t, sizeof t))
		return false;
	return !p->bias || (!l->cublasLtMatmulDescSetAttribute(d, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue) &&
	                    !l->cublasLtMatmulDescSetAttribute(d, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type, sizeof type));
}

static bool preference(const struct dense_lib *l, cublasLtMatmulPreferenceOpaque_t *pref)
{
	const cublasLtMatmulPreferenceAttributes_t align[] = {
		CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
		CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES
	};
	if (l->cublasLtMatmulPreferenceInit_internal(pref, sizeof *pref) ||
	    l->cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WS_MAX, sizeof WS_MAX))
		return false;
	/* Parts of k are added in fp32 by a kernel of their own: as bf16, or in whatever order they end, is not what gemm promises. */
	const uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
	if (l->cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes))
		return false;
	for (auto a : align)
		if (l->cublasLtMatmulPreferenceSetAttribute(pref, a, &ALIGN, sizeof ALIGN))
			return false;
	return true;
}

/* The library's first choice; but where few tokens read a matrix in more than two waves, the one with the most waves: the last wave, in which SMs run
 * dry, is the shortest.  Unembedding of 201088 x 2880, 64 / 128 tokens: 310 -> 291, 324 -> 311 us (docs/dense.md). */
static int choose(const cublasLtMatmulHeuristicResult_t *r, int n, int n_tok)
{
	int at = 0;
	for (int i = 1; i < n && n_tok <= FEW_TOK && r[0].wavesCount > 2; i++)
		if (!r[i].state && r[i].wavesCount > r[at].wavesCount)
			at = i;
	return at;
}

/* Asks for the algorithms of product p up to n_tok tokens; where the library offers none, the bucket stays unserved. */
static void plan_product(struct dense_lib *l, struct product *p, int n_tok, const cublasLtMatmulPreferenceOpaque_t *pref)
{
	if (!describe(l, p))
		return;
	for (int b = 0; b <= bucket_of(n_tok); b++) {
		cublasLtMatrixLayoutOpaque_t m[3];
		cublasLtMatmulHeuristicResult_t r[N_OFFER];
		cublasLtMatmulPreferenceOpaque_t pr = *pref;
		int n = 0;
		if (!layouts(l, p, 1 << b, m) || l->cublasLtMatmulAlgoGetHeuristic(l->handle, &p->desc, &m[0], &m[1], &m[2], &m[2], &pr, N_OFFER, r, &n)
		    || n < 1 || r[0].state)
			continue;
		const cublasLtMatmulHeuristicResult_t *const c = &r[choose(r, n, 1 << b)];
		p->algo[b] = c->algo, p->served[b] = true;
		l->ws_bytes = c->workspaceSize > l->ws_bytes ? c->workspaceSize : l->ws_bytes;
	}
}

extern "C" void cuda_dense_close(struct cuda_dev *d)
{
	struct dense_lib *const l = d->dense;
	d->dense = NULL;
	if (!l)
		return;
	if (l->handle)
		l->cublasLtDestroy(l->handle);
	if (l->so)
		dlclose(l->so);
	delete l;
}

extern "C" void cuda_dense_open(struct cuda_dev *d, const struct kern_limits *lim)
{
	struct dense_lib *const l = new (std::nothrow) dense_lib();
	d->dense = l;
	if (!l)
		return;
	if (lim->plan_only) { /* the most that it may want */
		l->ws_bytes = WS_MAX;
		return;
	}
	bool ok = (l->so = dlopen("libcublasLt.so.13", RTLD_NOW | RTLD_LOCAL)) || (l->so = dlopen("libcublasLt.so.12", RTLD_NOW | RTLD_LOCAL));
#define F(name) ok = ok && (l->name = reinterpret_cast<decltype(&::name)>(dlsym(l->so, #name))) != NULL;
	FUNCTIONS(F)
#undef F
	cublasLtMatmulPreferenceOpaque_t pref;
	if (!ok || l->cublasLtCreate(&l->handle) || !preference(l, &pref)) {
		cuda_dense_close(d);
		return;
	}
	const int n_q = lim->n_head * lim->d_head, n_qkv = n_q + 2 * lim->n_head_kv * lim->d_head;
	const int n_out[] = { n_qkv, lim->n_embd, lim->n_vocab }, n_in[] = { lim->n_embd, n_q, lim->n_embd };
	for (int i = 0; i < N_PRODUCT; i++) {
		struct product *const p = &l->p[i];
		p->n_out = n_out[i / 2], p->n_in = n_in[i / 2];
		p->add = i / 2 == 1, p->d_f32 = i / 2 == 2, p->bias = i % 2;
		plan_product(l, p, lim->n_tok, &pref);
	}
}

extern "C" size_t dense_lib_ws_bytes(const struct dense_lib *l) { return l->ws_bytes; }

extern "C" bool dense_lib_gemm(const struct cuda_dev *d, const struct dense_job *j, void *ws, size_t ws_bytes)
{
	const struct dense_lib *const l = d->dense;
	const struct dense_out *const o = &j->out;
	if (!l || (o->b && o->b_f32))
		return false;
	const struct product *p = NULL;
	for (const struct product &q : l->p)
		if (q.n_out == o->n_out && q.n_in == j->n_in && q.add == o->add && q.d_f32 == o->d_f32 && q.bias == (o->b != NULL))
			p = &q;
	const int bucket = bucket_of(o->n_tok);
	cublasLtMatrixLayoutOpaque_t m[3];
	if (!p || !p->served[bucket] || !layouts(l, p, o->n_tok, m))
		return false;
	cublasLtMatmulDescOpaque_t desc = p->desc;
	if (o->b && l->cublasLtMatmulDescSetAttribute(&desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &o->b, sizeof o->b))
		return false;
	const float one = 1, beta = o->add ? 1 : 0;
	ws_bytes = ws_bytes < l->ws_bytes ? ws_bytes : l->ws_bytes;
	return !l->cublasLtMatmul(l->handle, &desc, &one, j->w, &m[0], j->x, &m[1], &beta, o->d, &m[2], o->d, &m[2], &p->algo[bucket], ws,
	    ws_bytes, d->stream);
}
