#include "bench/bench_rate.h"

#include <stdatomic.h>

#include "base/host.h"
#include "kernels/cpu/pool.h"
#include "kernels/cpu/target.h"

static volatile float sink; /* keeps the results of the loops alive */

#if defined(__x86_64__)
#include <immintrin.h>

TARGET_BEGIN("avx2,fma")
/* One linear stream a thread, prefetched as the kernels do it. */
static int read_avx2(const char *p, size_t n)
{
	__m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
	for (size_t i = 0; i + 128 <= n; i += 128) {
		_mm_prefetch(p + i + 4096, _MM_HINT_T0);
		_mm_prefetch(p + i + 4160, _MM_HINT_T0);
		a = _mm256_xor_si256(a, _mm256_loadu_si256((const __m256i *)(const void *)(p + i)));
		b = _mm256_xor_si256(b, _mm256_loadu_si256((const __m256i *)(const void *)(p + i + 32)));
		c = _mm256_xor_si256(c, _mm256_loadu_si256((const __m256i *)(const void *)(p + i + 64)));
		d = _mm256_xor_si256(d, _mm256_loadu_si256((const __m256i *)(const void *)(p + i + 96)));
	}
	return _mm256_movemask_epi8(_mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d)));
}

static double loop_fma(long n)
{
	__m256 acc[12], x = _mm256_set1_ps(1e-9f * (float)n);
	for (int i = 0; i < 12; i++)
		acc[i] = x;
	for (long l = 0; l < n; l++) {
#pragma GCC unroll 12
		for (int i = 0; i < 12; i++)
			acc[i] = _mm256_fmadd_ps(acc[i], x, x);
		__asm__ volatile("" : "+x"(x));
	}
	for (int i = 1; i < 12; i++)
		acc[0] = _mm256_add_ps(acc[0], acc[i]);
	sink = _mm256_cvtss_f32(acc[0]);
	return 12 * 16.;
}
TARGET_END

TARGET_BEGIN("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")
static int read_avx512(const char *p, size_t n)
{
	__m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
	for (size_t i = 0; i + 256 <= n; i += 256) {
		for (int j = 0; j < 256; j += 64)
			_mm_prefetch(p + i + 6144 + j, _MM_HINT_T0);
		a = _mm512_xor_si512(a, _mm512_loadu_si512(p + i));
		b = _mm512_xor_si512(b, _mm512_loadu_si512(p + i + 64));
		c = _mm512_xor_si512(c, _mm512_loadu_si512(p + i + 128));
		d = _mm512_xor_si512(d, _mm512_loadu_si512(p + i + 192));
	}
	return (int)_mm512_reduce_and_epi32(_mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d)));
}

static double loop_dpbf16(long n)
{
	__m512 acc[24];
	__m512i x = _mm512_set1_epi32((int)n);
	for (int i = 0; i < 24; i++)
		acc[i] = _mm512_setzero_ps();
	for (long l = 0; l < n; l++) {
#pragma GCC unroll 24
		for (int i = 0; i < 24; i++)
			acc[i] = _mm512_dpbf16_ps(acc[i], (__m512bh)x, (__m512bh)x);
		__asm__ volatile("" : "+v"(x));
	}
	for (int i = 1; i < 24; i++)
		acc[0] = _mm512_add_ps(acc[0], acc[i]);
	sink = _mm512_cvtss_f32(acc[0]);
	return 24 * 64.;
}
TARGET_END

TARGET_BEGIN("amx-tile,amx-bf16")
static double loop_amx(long n)
{
	struct { uint8_t palette, start, pad[14]; uint16_t col[16]; uint8_t row[16]; } cfg = { .palette = 1 };
	for (int i = 0; i < 8; i++)
		cfg.col[i] = 64, cfg.row[i] = 16;
	_tile_loadconfig(&cfg);
	_tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); _tile_zero(4); _tile_zero(5); _tile_zero(6); _tile_zero(7);
	for (long l = 0; l < n; l++) {
		_tile_dpbf16ps(0, 4, 6);
		_tile_dpbf16ps(1, 4, 7);
		_tile_dpbf16ps(2, 5, 6);
		_tile_dpbf16ps(3, 5, 7);
	}
	float out[256];
	_tile_stored(0, out, 64);
	sink = out[0];
	_tile_release();
	return 4 * 16384.;
}
TARGET_END
#endif

/* What the threads of a measurement are handed: the backend's own kind of threads, since OpenMP's go on spinning beside whatever is
 * timed next. */
struct rate_job {
	const char *buf;
	size_t bytes;
	double (*loop)(long n);
	long n;
	_Atomic int sum;
	_Atomic long flop;
};

static void read_part(void *ctx, struct part_of me)
{
	struct rate_job *j = ctx;
	size_t n = j->bytes / (size_t)me.n / 4096 * 4096;
	const char *p = j->buf + n * (size_t)me.id;
	int x = 0;
#if defined(__x86_64__)
	bool wide = __builtin_cpu_supports("avx512bw"), fit = __builtin_cpu_supports("avx2");
	if (fit)
		x = wide ? read_avx512(p, n) : read_avx2(p, n);
#else
	bool fit = false;
#endif
	for (size_t i = 0; !fit && i < n; i += 4)
		x ^= *(const int *)(const void *)(p + i);
	atomic_fetch_xor(&j->sum, x);
}

static void flop_part(void *ctx, struct part_of me)
{
	struct rate_job *j = ctx;
	(void)me;
	atomic_fetch_add(&j->flop, (long)j->loop(j->n) * j->n);
}

double bench_read_rate(const void *buf, size_t bytes, int n_thread)
{
	struct pool *p = pool_create(n_thread);
	double best = 0;
	for (int turn = 0; turn < 3 && p; turn++) {
		struct rate_job j = { .buf = buf, .bytes = bytes };
		double t0 = host_now();
		pool_run(p, read_part, &j);
		double rate = (double)bytes / (host_now() - t0);
		best = rate > best ? rate : best;
		sink = (float)j.sum;
	}
	if (p)
		pool_free(p);
	return best;
}

double bench_flop_rate(enum cpu_isa isa, int n_thread, const char **what)
{
	double (*loop)(long n) = NULL;
	*what = "none";
#if defined(__x86_64__)
	if (isa == CPU_AVX2)
		loop = loop_fma, *what = "FMA fp32, 256 bits";
	if (isa == CPU_AVX512)
		loop = loop_dpbf16, *what = "VDPBF16PS, 512 bits";
	if (isa == CPU_AMX)
		loop = loop_amx, *what = "TDPBF16PS";
#endif
	struct pool *p = pool_create(n_thread);
	double best = 0;
	for (int turn = 0; turn < 3 && loop && p; turn++) {
		struct rate_job j = { .loop = loop, .n = isa == CPU_AMX ? 100000 : 500000 };
		double t0 = host_now();
		pool_run(p, flop_part, &j);
		double rate = (double)j.flop / (host_now() - t0);
		best = rate > best ? rate : best;
	}
	if (p)
		pool_free(p);
	return best;
}
