/* test.h - the whole test runner.  One test = one name = one command:  build/test_kernels rmsnorm ; --list prints all.
 *
 *     TEST(rmsnorm_unit) { CHECK(x == 1, "x is %d", x); NEAR(y, 2.0, 1e-6); }
 *     int main(int argc, char **argv) { return test_main(argc, argv); }      (TEST_MAIN writes it)
 *
 * An argument picks every test whose name contains it.  A failed CHECK ends its test.  SKIP(reason) is counted apart.
 */
#ifndef TEST_H
#define TEST_H

#include <math.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct test {
	const char *name;
	void (*run)(void);
	struct test *next;
};
static struct test *test_first, **test_last = &test_first;
static jmp_buf test_out;
__attribute__((unused)) static void (*test_after)(void); /* after each test, passed or not: gives back what it held */

#define TEST(fn)                                                                            \
	static void test_##fn(void);                                                        \
	static struct test test_entry_##fn = { #fn, test_##fn, NULL };                      \
	__attribute__((constructor)) static void test_add_##fn(void)                        \
	{                                                                                   \
		*test_last = &test_entry_##fn;                                              \
		test_last = &test_entry_##fn.next;                                          \
	}                                                                                   \
	static void test_##fn(void)

#define TEST_END(code, ...)                                                                 \
	do {                                                                                \
		printf("    %s:%d: ", __FILE__, __LINE__);                                  \
		printf(__VA_ARGS__);                                                        \
		putchar('\n');                                                              \
		longjmp(test_out, code);                                                    \
	} while (0)
#define CHECK(cond, ...) do { if (!(cond)) { printf("    %s\n", #cond); TEST_END(1, __VA_ARGS__); } } while (0)
#define OK(call, err) do { int rc_ = (call); if (rc_) TEST_END(1, "%s = %d: %s", #call, rc_, (err).text); } while (0)
#define NEAR(got, want, tol)                                                                \
	do {                                                                                \
		double g_ = (got), w_ = (want), t_ = (tol);                                 \
		if (!(fabs(g_ - w_) <= t_)) TEST_END(1, "%s = %.9g, wanted %.9g +- %g", #got, g_, w_, t_); \
	} while (0)
#define SKIP(...) TEST_END(2, __VA_ARGS__)

/* xorshift64*: uniform, and about normal (sum of four uniforms, variance 1). */
static uint64_t test_seed = 88172645463325252u;
__attribute__((unused)) static uint64_t rnd_u64(void)
{
	test_seed ^= test_seed >> 12, test_seed ^= test_seed << 25, test_seed ^= test_seed >> 27;
	return test_seed * 2685821657736338717u;
}
__attribute__((unused)) static double rnd(void) { return (double)(rnd_u64() >> 11) * 0x1p-53; }
__attribute__((unused)) static int rnd_int(int n) { return (int)(rnd_u64() % (uint64_t)n); }
__attribute__((unused)) static float rnd_normal(void) { return (float)((rnd() + rnd() + rnd() + rnd() - 2) * 1.7320508); }

/* Fresh data each run; MOXIE_TEST_SEED=n repeats one. */
static int test_main(int argc, char **argv)
{
	static int n_ok, n_bad, n_skip; /* static: longjmp may undo locals */
	if (argc > 1 && !strcmp(argv[1], "--list")) {
		for (struct test *t = test_first; t; t = t->next)
			puts(t->name);
		return 0;
	}
	const char *seed = getenv("MOXIE_TEST_SEED");
	uint64_t start = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL) * 2654435761u + 1;
	printf("%s: MOXIE_TEST_SEED=%llu\n", argv[0], (unsigned long long)start);
	for (struct test *t = test_first; t; t = t->next) {
		bool wanted = argc < 2;
		for (int i = 1; i < argc; i++)
			wanted |= strstr(t->name, argv[i]) != NULL;
		if (!wanted)
			continue;
		test_seed = start | 1;
		int rc = setjmp(test_out);
		if (!rc)
			t->run();
		if (test_after)
			test_after();
		n_ok += rc == 0, n_bad += rc == 1, n_skip += rc == 2;
		printf("%-6s %s\n", rc == 0 ? "ok" : rc == 1 ? "FAILED" : "skip", t->name);
		fflush(stdout);
	}
	printf("%d passed, %d failed, %d skipped\n", n_ok, n_bad, n_skip);
	return n_bad || n_ok + n_skip == 0;
}

#define TEST_MAIN int main(int argc, char **argv) { return test_main(argc, argv); }

#endif
