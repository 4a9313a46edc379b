/* router_lib.cu - the router GEMM by cuBLASLt, for prompts.
 *
 *   logits [n_tok, n_expert] f32 = x [n_tok, n_embd] bf16 . w [n_expert, n_embd]^T + b [n_expert]
 *
 * The library is opened by name, so nothing links against it; where it is missing the own kernel serves every n_tok.
 * Handle and algorithms (one per power of two of n_tok) are made with the plan; a run copies the product's description
 * to the stack to put the bias pointer in, and allocates nothing.
 * Test: build/cuda/test_route gemm    Bench: build/cuda/bench_route gemm
 */
#include <cublasLt.h>
#include <dlfcn.h>
#include <new>
#include <string.h>

#include "moe_route.h"

#define FUNCTIONS(F)                                                                                                        \
	F(cublasLtCreate) F(cublasLtDestroy) F(cublasLtMatmul) F(cublasLtMatmulAlgoGetHeuristic) F(cublasLtMatmulDescInit_internal) \
	F(cublasLtMatmulDescSetAttribute) F(cublasLtMatrixLayoutInit_internal) F(cublasLtMatmulPreferenceInit_internal)     \
	F(cublasLtMatmulPreferenceSetAttribute)

constexpr int N_BUCKET = 24; /* n_tok up to 2^24 */
constexpr uint64_t WS_MAX = ROUTER_LIB_WS_MAX;

struct router_lib {
	void *so;
	cublasLtHandle_t handle;
#define F(name) decltype(&::name) name;
	FUNCTIONS(F)
#undef F
	cublasLtMatmulDescOpaque_t desc[2]; /* without and with bias */
	cublasLtMatmulAlgo_t algo[2][N_BUCKET];
	bool served[2][N_BUCKET];
	int n_expert, n_embd;
};

static int bucket_of(int n_tok)
{
	int b = 0;
	while (b < N_BUCKET - 1 && 1 << b < n_tok)
		b++;
	return b;
}

static bool layouts(const struct router_lib *l, int n_tok, cublasLtMatrixLayoutOpaque_t (&m)[3])
{
	const int e = l->n_expert, k = l->n_embd;
	return !l->cublasLtMatrixLayoutInit_internal(&m[0], sizeof m[0], CUDA_R_16BF, k, e, k) &&
	       !l->cublasLtMatrixLayoutInit_internal(&m[1], sizeof m[1], CUDA_R_16BF, k, n_tok, k) &&
	       !l->cublasLtMatrixLayoutInit_internal(&m[2], sizeof m[2], CUDA_R_32F, e, n_tok, e);
}

extern "C" void router_lib_free(struct router_lib *l)
{
	if (!l)
		return;
	if (l->handle)
		l->cublasLtDestroy(l->handle);
	if (l->so)
		dlclose(l->so);
	delete l;
}

static bool describe(struct router_lib *l, cublasLtMatmulDescOpaque_t *d, int bias_dtype)
{
	const cublasOperation_t t = CUBLAS_OP_T;
	if (l->cublasLtMatmulDescInit_internal(d, sizeof *d, CUBLAS_COMPUTE_32F, CUDA_R_32F) ||
	    l->cublasLtMatmulDescSetAttribute(d, CUBLASLT_MATMUL_DESC_TRANSA, &t, sizeof t))
		return false;
	if (bias_dtype < 0)
		return true;
	const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
	const int type = bias_dtype == MOXIE_LOGIT_BF16 ? CUDA_R_16BF : CUDA_R_32F;
	return !l->cublasLtMatmulDescSetAttribute(d, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue) &&
	       !l->cublasLtMatmulDescSetAttribute(d, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type, sizeof type);
}

extern "C" struct router_lib *router_lib_create(int n_tok_min, int n_tok_max, int n_expert, int n_embd, int bias_dtype, size_t *ws_bytes)
{
	struct router_lib *l = new (std::nothrow) router_lib();
	*ws_bytes = 0;
	if (!l)
		return NULL;
	l->n_expert = n_expert, l->n_embd = n_embd;
	bool ok = (l->so = dlopen("libcublasLt.so.13", RTLD_NOW | RTLD_LOCAL)) || (l->so = dlopen("libcublasLt.so.12", RTLD_NOW | RTLD_LOCAL));
#define F(name) ok = ok && (l->name = reinterpret_cast<decltype(&::name)>(dlsym(l->so, #name))) != NULL;
	FUNCTIONS(F)
#undef F
	ok = ok && !l->cublasLtCreate(&l->handle) && describe(l, &l->desc[0], -1) && describe(l, &l->desc[1], bias_dtype);
	cublasLtMatmulPreferenceOpaque_t pref;
	const uint64_t most = WS_MAX;
	ok = ok && !l->cublasLtMatmulPreferenceInit_internal(&pref, sizeof pref) &&
	     !l->cublasLtMatmulPreferenceSetAttribute(&pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most, sizeof most);
	for (int with_bias = 0; ok && with_bias < 2; with_bias++)
		for (int b = bucket_of(n_tok_min); b <= bucket_of(n_tok_max); b++) {
			cublasLtMatrixLayoutOpaque_t m[3];
			cublasLtMatmulHeuristicResult_t r;
			int n = 0;
			if (!layouts(l, 1 << b, m) || l->cublasLtMatmulAlgoGetHeuristic(l->handle, &l->desc[with_bias], &m[0], &m[1], &m[2], &m[2], &pref, 1, &r, &n) ||
			    n < 1 || r.state)
				continue;
			l->algo[with_bias][b] = r.algo, l->served[with_bias][b] = true;
			*ws_bytes = r.workspaceSize > *ws_bytes ? r.workspaceSize : *ws_bytes;
		}
	if (!ok) {
		router_lib_free(l);
		return NULL;
	}
	return l;
}

extern "C" bool router_lib_run(const struct router_lib *l, const void *x, const void *w, const void *b, float *logits, int n_tok, void *ws,
                               size_t ws_bytes, cudaStream_t stream)
{
	const int with_bias = b != NULL, bucket = bucket_of(n_tok);
	const float one = 1, zero = 0;
	cublasLtMatrixLayoutOpaque_t m[3];
	if (!l->served[with_bias][bucket] || !layouts(l, n_tok, m))
		return false;
	cublasLtMatmulDescOpaque_t desc = l->desc[with_bias];
	if (with_bias && l->cublasLtMatmulDescSetAttribute(&desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &b, sizeof b))
		return false;
	return !l->cublasLtMatmul(l->handle, &desc, &one, w, &m[0], x, &m[1], &zero, logits, &m[2], logits, &m[2], &l->algo[with_bias][bucket], ws,
	                          ws_bytes, stream);
}
