/* backend_step.cu - a step's inputs on their way in, its picks on their way out, without a copy engine.
 *
 * Both lie in pinned memory that the device reads and writes itself: a copy between two kernels costs 10 to 25 us of changing engines, a
 * kernel that reads over the bus 2.  The ops are part of a recorded step; which of the two slots is theirs they learn from a count of
 * steps on the device, so that the host can fill one while the step of the other runs.
 *
 *   slot   [2][SLOT_BYTES] host, inputs of step i in slot i % 2      pick  [2][n_seq] i32 host, likewise
 *   n_run  host: steps that are over       count  device: the same
 *
 * Cost: n_bytes over the bus (about 40 GB/s) and two trips there.   Test: build/test_cuda_model ahead   Bench: moxie bench latency
 */
#include <new>
#include <string.h>

#include "backend.h"
#include "device/launch.cuh"
#include "device/ptx.cuh"

constexpr size_t SLOT_BYTES = (size_t)4 << 20; /* page lists of 256 sequences of 128K tokens are half of it */
constexpr int N_LOOK = 4096; /* turns of waiting between two looks for failures */

struct cuda_step_io {
	uint8_t *slot;
	int32_t *pick;
	uint64_t *n_run, *count;
	uint64_t n_staged;
	int n_seq;
};

__global__ void take_in_kernel(uint4 *to, const uint4 *slot, const uint64_t *count, int n_vec, int n_tok, const int32_t *picked)
{
	const int i = blockIdx.x * blockDim.x + threadIdx.x;
	pdl_launch();
	pdl_wait();
	if (i >= n_vec)
		return;
	uint4 v = __ldcv(slot + (__ldcg(count) & 1) * (SLOT_BYTES / 16) + i);
	uint32_t *const word = &v.x;
#pragma unroll
	for (int j = 0; j < 4; j++)
		if (4 * i + j < n_tok && (int32_t)word[j] < 0)
			word[j] = (uint32_t)__ldcg(picked + (-1 - (int32_t)word[j]));
	to[i] = v;
}

__global__ void give_out_kernel(int32_t *pick, uint64_t *n_run, uint64_t *count, int n_seq, const int32_t *picked, int n)
{
	pdl_launch();
	pdl_wait();
	const uint64_t step = __ldcg(count);
	for (int i = threadIdx.x; i < n; i += blockDim.x)
		pick[(step & 1) * n_seq + i] = __ldcg(picked + i);
	__threadfence_system();
	__syncthreads();
	if (threadIdx.x == 0) {
		*count = step + 1;
		asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(n_run), "l"(step + 1) : "memory");
	}
}

int cuda_step_init(struct cuda *c, struct moxie_err *err)
{
	struct cuda_step_io *io = new (std::nothrow) struct cuda_step_io();
	if (!io)
		return err_nomem(err, sizeof *io, "the steps' inputs");
	c->io = io;
	io->n_seq = c->lim.n_seq;
	const size_t pick_bytes = 2 * (size_t)io->n_seq * sizeof *io->pick;
	cudaError_t e = cudaMallocHost((void **)&io->slot, 2 * SLOT_BYTES);
	if (e == cudaSuccess) e = cudaMallocHost((void **)&io->pick, pick_bytes);
	if (e == cudaSuccess) e = cudaMallocHost((void **)&io->n_run, sizeof *io->n_run);
	if (e == cudaSuccess) e = cudaMalloc((void **)&io->count, sizeof *io->count);
	if (e == cudaSuccess) e = cudaMemsetAsync(io->count, 0, sizeof *io->count, c->dev.stream);
	if (e != cudaSuccess)
		return err_set(err, MOXIE_E_NOMEM, "%zu bytes of pinned memory: %s", 2 * SLOT_BYTES + pick_bytes, cudaGetErrorString(e));
	*io->n_run = 0;
	return 0;
}

void cuda_step_free(struct cuda *c)
{
	if (!c->io)
		return;
	cudaFreeHost(c->io->slot);
	cudaFreeHost(c->io->pick);
	cudaFreeHost(c->io->n_run);
	cudaFree(c->io->count);
	delete c->io;
}

static uint64_t n_run(const struct cuda_step_io *io) { return __atomic_load_n(io->n_run, __ATOMIC_ACQUIRE); }

void cuda_step_settle(struct cuda *c)
{
	c->io->n_staged = n_run(c->io);
}

/* Until n steps are over; false: that will not happen. */
static bool wait_for(struct cuda *c, uint64_t n)
{
	for (int i = 1; n_run(c->io) < n; i++) {
		if (c->status)
			return false;
		if (i % N_LOOK == 0) {
			const cudaError_t e = cudaStreamQuery(c->dev.stream);
			if (e == cudaSuccess && n_run(c->io) < n)
				cuda_ok(c, cudaErrorUnknown, "a step that never ran");
			else if (e != cudaErrorNotReady)
				cuda_ok(c, e, "the device");
			cudaGetLastError(); /* not ready is no failure */
		}
#ifdef __x86_64__
		__builtin_ia32_pause();
#endif
	}
	return true;
}

int cuda_step_stage(struct kern *k, const void *from, size_t n_bytes, struct moxie_err *err)
{
	struct cuda *c = cuda_of(k);
	struct cuda_step_io *io = c->io;
	if (n_bytes > SLOT_BYTES)
		return err_set(err, MOXIE_E_ARG, "the inputs of a step are %zu bytes, wanted at most %zu", n_bytes, SLOT_BYTES);
	if (io->n_staged >= 2 && !wait_for(c, io->n_staged - 1))
		return err_set(err, c->status, "%s", c->text);
	memcpy(io->slot + io->n_staged % 2 * SLOT_BYTES, from, n_bytes);
	io->n_staged++;
	return 0;
}

void cuda_step_take_in(struct kern *k, void *to, size_t n_bytes, int n_tok, const int32_t *picked)
{
	struct cuda *c = cuda_of(k);
	const int n_vec = (int)((n_bytes + 15) / 16), n_thread = 128;
	cuda_ok(c, cuda_launch(take_in_kernel, dim3((n_vec + n_thread - 1) / n_thread), dim3(n_thread), 0, c->dev.stream, (uint4 *)to,
	                       (const uint4 *)c->io->slot, c->io->count, n_vec, n_tok, picked), "the inputs of a step");
}

void cuda_step_give_out(struct kern *k, const int32_t *picked, int n)
{
	struct cuda *c = cuda_of(k);
	cuda_ok(c, cuda_launch(give_out_kernel, dim3(1), dim3(128), 0, c->dev.stream, c->io->pick, c->io->n_run, c->io->count, c->io->n_seq, picked, n),
	        "the picks of a step");
}

int cuda_step_outcome(struct kern *k, int n_after, int32_t *id, int n, struct moxie_err *err)
{
	struct cuda *c = cuda_of(k);
	const uint64_t step = c->io->n_staged - (uint64_t)n_after;
	if (!c->status && wait_for(c, step) && n)
		memcpy(id, c->io->pick + (step - 1) % 2 * (size_t)c->io->n_seq, (size_t)n * sizeof *id);
	return c->status ? err_set(err, c->status, "%s", c->text) : 0;
}
