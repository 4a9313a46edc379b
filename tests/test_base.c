/* The small things everything stands on: errors, arrays, the arena, number formats, what the host says. */
#include <limits.h>

#include "base/arena.h"
#include "base/dtype.h"
#include "base/err.h"
#include "base/host.h"
#include "base/vec.h"
#include "test.h"

TEST(err_text)
{
	struct moxie_err e;
	CHECK(err_set(&e, MOXIE_E_FORMAT, "n is %d", 3) == MOXIE_E_FORMAT && e.code == MOXIE_E_FORMAT && !strcmp(e.text, "n is 3"), "%s", e.text);
	err_prefix(&e, "file %s", "a");
	CHECK(!strcmp(e.text, "file a: n is 3") && e.code == MOXIE_E_FORMAT, "%s", e.text);
	CHECK(err_nomem(&e, 77, "a thing") == MOXIE_E_NOMEM && strstr(e.text, "77 bytes for a thing"), "%s", e.text);
	CHECK(err_set(NULL, MOXIE_E_IO, "x") == MOXIE_E_IO, "NULL err");
	err_prefix(NULL, "x");
}

/* What a hostile file puts into a message must not reach a terminal. */
TEST(err_cleans)
{
	static const struct {
		const char *in, *out;
	} c[] = {
		{ "a\x1b[31mb", "a?[31mb" }, { "tab\there", "tab?here" }, { "line\nline", "line\nline" }, { "del\x7f", "del?" },
		{ "\xc3\xa9", "\xc3\xa9" }, { "\xc3", "?" }, { "\xff\xfe", "??" }, { "\xe2\x82", "??" }, { "\xf0\x9f\x99\x82", "\xf0\x9f\x99\x82" },
		{ "\xc0\x80", "??" },
	};
	struct moxie_err e;
	for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
		err_set(&e, MOXIE_E_FORMAT, "%s", c[i].in);
		CHECK(!strcmp(e.text, c[i].out), "case %zu: %s", i, e.text);
	}
}

TEST(err_long)
{
	struct moxie_err e;
	char text[2000];
	memset(text, 'x', sizeof text);
	text[sizeof text - 1] = 0;
	err_set(&e, MOXIE_E_IO, "%s", text);
	CHECK(strlen(e.text) == sizeof e.text - 1, "%zu", strlen(e.text));
	err_prefix(&e, "%s", text);
	CHECK(strlen(e.text) == sizeof e.text - 1, "%zu", strlen(e.text));
	for (size_t i = 0; i + 2 < sizeof text; i += 2)
		memcpy(text + i, "\xc3\xa9", 2);
	for (int shift = 0; shift < 2; shift++) { /* a character cut by the end becomes '?' */
		err_set(&e, MOXIE_E_IO, shift ? "a%s" : "%s", text);
		CHECK((unsigned char)e.text[strlen(e.text) - 1] != 0xc3, "half a character at the end");
	}
}

TEST(strerror_all)
{
	for (int rc = MOXIE_E_TOO_SMALL - 2; rc < 3; rc++)
		CHECK(moxie_strerror(rc) && moxie_strerror(rc)[0], "status %d", rc);
	CHECK(strcmp(moxie_strerror(MOXIE_E_NOMEM), moxie_strerror(-1000)), "unknown status");
}

TEST(vec_ids)
{
	struct ids a = { 0 };
	for (int32_t i = 0; i < 1000; i++)
		CHECK(ids_push(&a, i * 3), "push %d", i);
	int32_t more[3] = { -1, -2, INT32_MAX };
	CHECK(ids_append(&a, more, 3) && ids_append(&a, NULL, 0), "append");
	CHECK(a.n == 1003 && a.v[999] == 2997 && a.v[1002] == INT32_MAX, "%zu", a.n);
	CHECK(!ids_append(&a, more, SIZE_MAX) && !ids_append(&a, more, SIZE_MAX / 4) && a.n == 1003, "too much was taken");
	ids_free(&a);
	CHECK(!a.v && !a.n && !a.cap, "free");
}

TEST(vec_buf)
{
	struct buf b = { 0 };
	CHECK(buf_puts(&b, "") && b.n == 0 && b.p && b.p[0] == 0, "empty string");
	CHECK(buf_puts(&b, "ab") && buf_append(&b, "c\0d", 3) && buf_printf(&b, "%d-%s", 42, "x"), "append");
	CHECK(b.n == 9 && !memcmp(b.p, "abc\0d42-x", 10), "%zu bytes", b.n);
	for (int i = 0; i < 500; i++)
		CHECK(buf_printf(&b, "%03d", i), "%d", i);
	CHECK(b.n == 1509 && !strcmp(b.p + b.n - 6, "498499"), "%s", b.p + b.n - 6);
	CHECK(!buf_append(&b, "x", SIZE_MAX) && !buf_append(&b, "x", SIZE_MAX - 1) && b.n == 1509, "too much was taken");
	buf_free(&b);
	CHECK(!b.p && !b.n, "free");
}

TEST(arena_counts)
{
	struct arena dry = { .cap = SIZE_MAX }, a;
	for (int pass = 0; pass < 2; pass++) {
		struct arena *p = pass ? &a : &dry;
		if (pass)
			CHECK(arena_init(&a, dry.top), "%zu bytes", dry.top);
		void *x = arena_take(p, 3, 5), *y = arena_take(p, 1, 1), *z = arena_take(p, 0, 8), *w = arena_take(p, 100, 4);
		CHECK(pass ? x && y && z && w : !x && !y && !z && !w, "pass %d", pass);
		CHECK(p->n == 64 + 64 + 0 + 448 && p->top == p->n, "%zu in use", p->n);
		if (pass) {
			CHECK((uintptr_t)x % ARENA_ALIGN == 0 && (char *)y - (char *)x == 64 && (char *)w - (char *)z == 0, "places");
			memset(w, 1, 400);
		}
	}
	a.n = 0;
	CHECK(arena_take(&a, dry.top, 1) && a.top == dry.top, "whole arena");
	while (arena_take(&a, 1, 1)) /* what rounding left */
		;
	size_t n = a.n;
	CHECK(!arena_take(&a, SIZE_MAX, 2) && !arena_take(&a, SIZE_MAX, 1) && !arena_take(&a, SIZE_MAX / 2, 1) && a.n == n, "overflow");
	arena_free(&a);
	CHECK(!arena_init(&a, SIZE_MAX) && !a.base, "SIZE_MAX bytes");
}

TEST(dtype_bf16)
{
	for (uint32_t h = 0; h < 0x10000; h++) { /* every bf16 comes back, NaNs as NaNs of the same sign */
		float f = bf16_to_f32((bf16)h);
		bf16 back = bf16_from_f32(f);
		if (f != f)
			CHECK((back & 0x7fc0) == 0x7fc0 && (back & 0x8000) == (h & 0x8000), "NaN %04x became %04x", h, back);
		else
			CHECK(back == h, "%04x became %04x", h, back);
	}
	static const struct {
		uint32_t in;
		bf16 out;
	} c[] = { { 0x3f808000, 0x3f80 }, { 0x3f808001, 0x3f81 }, { 0x3f818000, 0x3f82 }, { 0x3f817fff, 0x3f81 }, { 0x7f7fffff, 0x7f80 },
		  { 0x7f800001, 0x7fc0 }, { 0xff800001, 0xffc0 }, { 0x80000000, 0x8000 }, { 0x00008000, 0x0000 }, { 0x00018000, 0x0002 } };
	for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
		float f;
		memcpy(&f, &c[i].in, 4);
		CHECK(bf16_from_f32(f) == c[i].out, "%08x became %04x, wanted %04x", c[i].in, bf16_from_f32(f), c[i].out);
	}
}

TEST(dtype_e4m3)
{
	double last = -1;
	for (int i = 0; i < 256; i++) {
		float f = e4m3_to_f32((uint8_t)i);
		if (i % 128 == 127) {
			CHECK(isnan(f) && e4m3_from_f32(f) % 128 == 127, "%02x is no NaN", (unsigned)i);
			continue;
		}
		double want = i % 128 < 8 ? ldexp(i % 8, -9) : ldexp(8 + i % 8, i % 128 / 8 - 10);
		CHECK((double)f == (i < 128 ? want : -want) && !signbit(f) == (i < 128), "%02x is %g, wanted %g", (unsigned)i, (double)f, want);
		CHECK(e4m3_from_f32(f) == i, "%g became %02x, wanted %02x", (double)f, e4m3_from_f32(f), (unsigned)i);
		if (i > 0 && i < 127) { /* around the middle to the one before: the even of the two */
			float mid = (float)((last + (double)f) / 2), low = nextafterf(mid, 0), high = nextafterf(mid, INFINITY);
			CHECK(e4m3_from_f32(low) == i - 1 && e4m3_from_f32(high) == i && e4m3_from_f32(mid) == i - (i & 1), "around %g: %02x %02x %02x", (double)mid,
			      e4m3_from_f32(low), e4m3_from_f32(mid), e4m3_from_f32(high));
			CHECK(e4m3_from_f32(-high) == i + 128, "%g", (double)-high);
		}
		last = (double)f;
	}
	CHECK(e4m3_from_f32(449) == 0x7e && e4m3_from_f32(INFINITY) == 0x7e && e4m3_from_f32(-1e30f) == 0xfe, "beyond 448");
}

TEST(dtype_mxfp4)
{
	for (int s = 0; s < 255; s++)
		NEAR((double)e8m0_to_f32((uint8_t)s) / ldexp(1, s - 127), 1, 0);
	CHECK(isnan(e8m0_to_f32(255)), "scale 255 is %g", (double)e8m0_to_f32(255));
	static const double v[] = { 0, .5, 1, 1.5, 2, 3, 4, 6 };
	for (unsigned i = 0; i < 8; i++) {
		NEAR((double)e2m1_to_f32(i), v[i], 0);
		NEAR((double)e2m1_to_f32(i + 8), -v[i], 0);
	}
	CHECK(signbit(e2m1_to_f32(8)), "-0");
}

TEST(dtype_names)
{
	int n = 0;
	for (int t = DT_NONE + 1; dtype_bytes((enum dtype)t); t++, n++)
		for (int u = DT_NONE; u < t; u++)
			CHECK(strcmp(dtype_name((enum dtype)t), dtype_name((enum dtype)u)), "%d and %d are both %s", t, u, dtype_name((enum dtype)t));
	CHECK(n == DT_BOOL && dtype_bytes(DT_NONE) == 0 && dtype_bytes((enum dtype)99) == 0, "%d dtypes", n);
	CHECK(!strcmp(dtype_name((enum dtype)99), "?"), "%s", dtype_name((enum dtype)99));
}

TEST(host_says)
{
	CHECK(host_n_cpu() >= 1 && host_n_cpu() < 100000, "%d processors", host_n_cpu());
	CHECK(host_memory_bytes() > 1 << 20, "%llu bytes", (unsigned long long)host_memory_bytes());
	CHECK(host_peak_rss_bytes() > 1 << 16 && host_peak_rss_bytes() < host_memory_bytes(), "%llu", (unsigned long long)host_peak_rss_bytes());
	double t = host_now();
	CHECK(host_now() >= t, "the clock went back");
}

TEST_MAIN
