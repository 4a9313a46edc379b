/* test_amx.c - src/kernels/cpu/amx.c on a model of its tile instructions: every case of test_kernels.c and larger ones, against the
 * oracle in double.  The file under test is part of this translation unit and stands in for the library's.
 *
 * Needs AVX-512 BF16, which the rest of that instruction set's ops use; else skipped.
 */
#include "test.h"

#if defined(__x86_64__) && defined(__linux__)
#include "amx_model.h"
#include "kernels/cpu/amx.c"

#define FIRST_ISA CPU_AMX
#include "test_kernels.c"

static void need_amx(void)
{
	struct cpu_ops ops;
	const char *missing = cpu_isa_amx(&ops);
	if (missing)
		SKIP("no %s", missing);
}

/* The model itself: a product of odd shape against double, zeros around it, subnormals flushed. */
TEST(amx_model)
{
	enum { M = 5, N = 7, K = 11 }; /* K pairs */
	struct tile_config config = { .palette = 1, .col_bytes = { 4 * N, 4 * K, 4 * N }, .row = { M, M, K } };
	bf16 a[M * 2 * K], b[K * 2 * N];
	float c[M * N], d[M * N];
	for (int i = 0; i < M * 2 * K; i++)
		a[i] = bf16_from_f32(rnd_normal());
	for (int i = 0; i < K * 2 * N; i++)
		b[i] = i % (2 * N) < 2 * N - 2 ? bf16_from_f32(rnd_normal()) : (bf16)(1 + i % 2 * 0x8000); /* the smallest subnormals */
	for (int i = 0; i < M * N; i++)
		c[i] = rnd_normal();
	amx_syscall(SYS_arch_prctl, 0x1023, 18);
	_tile_loadconfig(&config);
	_tile_loadd(0, c, 4 * N);
	_tile_loadd(1, a, 4 * K);
	_tile_loadd(2, b, 4 * N);
	_tile_dpbf16ps(0, 1, 2);
	_tile_stored(0, d, 4 * N);
	for (int m = 0; m < AMX_ROW; m++)
		for (int n = 0; n < AMX_ROW; n++) {
			float z;
			memcpy(&z, amx.data[0][m] + 4 * n, 4);
			CHECK((m < M && n < N) || z == 0, "row %d, column %d is %g outside the tile", m, n, z);
		}
	_tile_release();
	for (int m = 0; m < M; m++)
		for (int n = 0; n < N; n++) {
			double want = c[m * N + n];
			for (int k = 0; k < 2 * K && n < N - 1; k++)
				want += (double)bf16_to_f32(a[m * 2 * K + k]) * bf16_to_f32(b[k / 2 * 2 * N + 2 * n + k % 2]);
			NEAR(d[m * N + n], want, n < N - 1 ? 1e-5 : 0);
		}
}

/* More tokens than one block of them, around its edges, and rows around those of a block. */
TEST(amx_blocks)
{
	static const int tok[] = { 63, 64, 80, 96, 191, 192, 193, 209, 240 }, out[] = { 15, 31, 49, 127, 129, 145, 272 };
	need_amx();
	for (size_t i = 0; i < sizeof tok / sizeof *tok; i++) {
		gemm_case(tok[i], out[rnd_int(7)], 32 * (1 + rnd_int(7)), GRID, DT_BF16);
		gemm_case(tok[i], out[rnd_int(7)], 32 * (1 + rnd_int(7)), GRID, DT_U8);
	}
	for (int i = 0; i < 2; i++) {
		moe_case(i, 64, 1, 2, 160, 96, SPREAD, SCALE_PLAIN, GRID);
		moe_case(i, 200, 2, 3, 96, 160, ONE_EXPERT, SCALE_EDGES, GRID);
		moe_case(i, 193, 1, 1, 64, 288, ONE_EXPERT, SCALE_NAN, GRID);
	}
}

/* Panels go through tiles, and a thread leaves none in use. */
TEST(amx_tiles_are_used)
{
	need_amx();
	long before = amx_n_product;
	struct weight w = rnd_bf16(32, 64, 1);
	float *a = rnd_act(32 * 64, GRID), *d = take(32 * 32, sizeof *d);
	struct kern_limits lim = small;
	struct kern *k = open_kern(&lim, CPU_AMX, 1);
	k->gemm(k, &(struct gemm_args){ .d = d, .a = a, .w = &w, .n_tok = 32, .n_out = 32, .n_in = 64 });
	CHECK(strstr(k->name, "amx") && amx_n_product - before == 8, "%s, %ld products, wanted 8", k->name, amx_n_product - before);
	CHECK(!amx.on, "tiles are still in use");
	k->free(k);
	free(a);
	free(d);
	weight_free(&w);
}
#else
TEST(amx) { SKIP("not x86-64 Linux"); }
TEST_MAIN
#endif
