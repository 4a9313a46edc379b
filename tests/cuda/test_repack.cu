/* test_repack.cu - packing experts on the device against a C twin written from moe_layout.h code by code, bit for bit;
 * then back: every code and scale of the source is found again in the atoms, in value.
 */
#include <cuda_runtime.h>
#include <vector>

#include "../test.h"
#include "cu.cuh"
#include "moe_layout.h"
#include "moxie_ops.h"

typedef std::vector<uint8_t> bytes;
constexpr int GUARD = 256, POISON = 0xA5;

static uint8_t *upload(const bytes &v)
{
	uint8_t *p;
	CU(cudaMalloc(&p, v.size() + 16));
	CU(cudaMemcpy(p, v.data(), v.size(), cudaMemcpyHostToDevice));
	return p;
}
static uint8_t *poisoned(size_t n)
{
	uint8_t *p;
	CU(cudaMalloc(&p, n + GUARD));
	CU(cudaMemset(p, POISON, n + GUARD));
	return p;
}
static bytes download(const uint8_t *p, size_t n)
{
	bytes v(n);
	CU(cudaMemcpy(v.data(), p, n, cudaMemcpyDeviceToHost));
	return v;
}

/* One matrix [rows, k] of one expert as the sources hold it. */
struct matrix {
	const uint8_t *code, *scale; /* [rows, k/2], [rows, k/32] */
	int k;
	int at(int row, int c) const { return code[(size_t)row * (k / 2) + c / 2] >> (c & 1) * 4 & 15; }
	int s(int row, int group) const { return scale[(size_t)row * (k / 32) + group]; }
};

/* Source of packed row r of row block b: matrix and row. */
struct place {
	const matrix *m;
	int row;
};
enum layout { OSS_GATE_UP, DS_GATE_UP, DOWN };
static place source_of(int layout, const matrix *m, int b, int r)
{
	const int w = r / 16, g = r % 8, up = r / 8 & 1, channel = 32 * b + 8 * w + g;
	const place oss = { m, 2 * channel + up }, ds = { m + up, channel }, down = { m, 64 * b + r };
	return layout == OSS_GATE_UP ? oss : layout == DS_GATE_UP ? ds : down;
}

/* The twin: atoms of one expert; returns its offset. */
static int pack_ref(int layout, const matrix *m, size_t n_scale, int n_block, int k, uint8_t *out)
{
	int most = 0;
	for (int i = 0; i < (layout == DS_GATE_UP ? 2 : 1); i++)
		for (size_t j = 0; j < n_scale; j++)
			if (m[i].scale[j] != 255 && m[i].scale[j] > most)
				most = m[i].scale[j];
	const int offset = most > 128 ? most - 128 : 0;
	for (int b = 0; b < n_block; b++)
		for (int a = 0; a < k / 64; a++, out += MOE_ATOM_BYTES) {
			for (int t = 0; t < 128; t++) {
				const int w = t / 32, g = t % 32 / 4, q = t % 4, r = 16 * w + g;
				uint8_t code[32];
				uint32_t word[4];
				for (int i = 0; i < 32; i++) {
					const place p = source_of(layout, m, b, r + 8 * (i >> 1 & 1));
					code[i] = (uint8_t)p.m->at(p.row, 64 * a + 16 * (i >> 3) + 8 * (i >> 2 & 1) + 2 * q + (i & 1));
				}
				moe_pack_codes(code, word);
				memcpy(out + 16 * t, word, 16);
				if (q == 0) {
					const place p = source_of(layout, m, b, r), p8 = source_of(layout, m, b, r + 8);
					const uint32_t s = moe_pack_scales(
					    moe_scale_field(p.m->s(p.row, 2 * a), offset), moe_scale_field(p8.m->s(p8.row, 2 * a), offset),
					    moe_scale_field(p.m->s(p.row, 2 * a + 1), offset), moe_scale_field(p8.m->s(p8.row, 2 * a + 1), offset));
					memcpy(out + MOE_ATOM_CODES + 4 * (8 * w + g), &s, 4);
				}
			}
		}
	return offset;
}

/* From the atoms alone: code and exponent field of packed row r, column c of the atom. */
static void unpack(const uint8_t *atom, int r, int c, int *code, int *field)
{
	const int w = r / 16, g = r % 8, row8 = r / 8 & 1, step = c / 16, half = c / 8 & 1, q = c % 8 / 2;
	const int i = step * 8 + half * 4 + row8 * 2 + (c & 1), t = 32 * w + 4 * g + q;
	uint32_t word[4], s;
	memcpy(word, atom + 16 * t, 16);
	memcpy(&s, atom + MOE_ATOM_CODES + 4 * (8 * w + g), 4);
	*code = 0;
	for (int b = 0; b < 4; b++) {
		const int at = (i >> 4) * 64 + moe_code_bit(i & 15, b);
		*code |= (int)(word[at >> 5] >> (at & 31) & 1) << b;
	}
	const uint32_t h = row8 ? s >> 16 : s & 0xffff;
	*field = c < 32 ? (int)(h >> 7 & 0xff) : (int)((h & 0x7f) << 1 | h >> 15);
}

/* Scales as real ones (around 2^-7), with wide ones, zeros and NaN in some experts. */
static bytes random_scales(size_t n, int kind)
{
	bytes v(n);
	for (auto &s : v) {
		s = (uint8_t)(118 + rnd_int(8));
		if (kind == 1)
			s = (uint8_t)rnd_int(256);
		if (kind == 2 && rnd_int(50) == 0)
			s = (uint8_t)(rnd_int(2) ? 0 : 255);
		if (kind == 3)
			s = (uint8_t)(125 + rnd_int(20));
		if (kind == 4)
			s = 255;
	}
	return v;
}
static bytes random_bytes(size_t n)
{
	bytes v(n);
	for (auto &b : v)
		b = (uint8_t)(rnd_u64() >> 32);
	return v;
}

static void pack_case(int source, int E, int n_embd, int n_ff, bool in_parts)
{
	const bool oss = source == MOXIE_MOE_GPT_OSS;
	const size_t gu_rows = oss ? 2 * (size_t)n_ff : (size_t)n_ff, gu_code = gu_rows * n_embd / 2, gu_scale = gu_rows * n_embd / 32;
	const size_t dn_code = (size_t)n_embd * n_ff / 2, dn_scale = (size_t)n_embd * n_ff / 32;
	struct moxie_moe_pack_sizes sz;
	struct moxie_err err = {};
	OK(moxie_moe_pack_bytes(E, n_embd, n_ff, &sz, &err), err);
	bytes gu[2], gus[2], dn = random_bytes(E * dn_code), dns, gb = random_bytes((size_t)E * n_ff * 4), db = random_bytes((size_t)E * n_embd * 2);
	for (int i = 0; i < (oss ? 1 : 2); i++) {
		gu[i] = random_bytes(E * gu_code);
		for (int e = 0; e < E; e++) {
			const bytes s = random_scales(gu_scale, (e + i) % 5);
			gus[i].insert(gus[i].end(), s.begin(), s.end());
		}
	}
	for (int e = 0; e < E; e++) {
		const bytes s = random_scales(dn_scale, (e + 2) % 5);
		dns.insert(dns.end(), s.begin(), s.end());
	}
	uint8_t *d_gu[2] = { upload(gu[0]), oss ? nullptr : upload(gu[1]) }, *d_gus[2] = { upload(gus[0]), oss ? nullptr : upload(gus[1]) };
	uint8_t *d_dn = upload(dn), *d_dns = upload(dns), *d_gb = upload(gb), *d_db = upload(db);
	uint8_t *o_gu = poisoned(sz.gate_up), *o_dn = poisoned(sz.down), *o_gm = poisoned(sz.gate_up_mul), *o_dm = poisoned(sz.down_mul);
	uint8_t *o_gb = poisoned(sz.gate_up_bias), *o_db = poisoned(sz.down_bias);
	for (int e0 = 0; e0 < E; e0 += in_parts ? 1 : E) {
		struct moxie_moe_pack_args a = {};
		a.source = source, a.n_expert = E, a.n_embd = n_embd, a.n_ff = n_ff, a.expert0 = e0, a.n_expert_part = in_parts ? 1 : 0;
		if (oss)
			a.gate_up = d_gu[0] + e0 * gu_code, a.gate_up_scale = d_gus[0] + e0 * gu_scale;
		else
			a.gate = d_gu[0] + e0 * gu_code, a.gate_scale = d_gus[0] + e0 * gu_scale, a.up = d_gu[1] + e0 * gu_code, a.up_scale = d_gus[1] + e0 * gu_scale;
		a.down = d_dn + e0 * dn_code, a.down_scale = d_dns + e0 * dn_scale;
		a.gate_up_bias = d_gb + (size_t)e0 * n_ff * 4, a.down_bias = d_db + (size_t)e0 * n_embd * 2;
		a.out.gate_up = o_gu, a.out.down = o_dn, a.out.gate_up_mul = (float *)o_gm, a.out.down_mul = (float *)o_dm;
		a.out.gate_up_bias = (float *)o_gb, a.out.down_bias = (float *)o_db;
		OK(moxie_moe_pack(&a, 0, &err), err);
	}
	CU(cudaDeviceSynchronize());
	const bytes gm = download(o_gm, sz.gate_up_mul + GUARD), dm = download(o_dm, sz.down_mul + GUARD);
	const struct {
		const char *name;
		uint8_t *out;
		size_t n;
		const bytes *mul;
	} part[2] = { { "gate_up", o_gu, sz.gate_up, &gm }, { "down", o_dn, sz.down, &dm } };
	for (int p = 0; p < 2; p++) {
		const bytes got = download(part[p].out, part[p].n + GUARD);
		const size_t per = part[p].n / E;
		bytes want(per);
		for (int e = 0; e < E; e++) {
			const matrix m[2] = { { (p ? dn.data() : gu[0].data()) + e * (p ? dn_code : gu_code), (p ? dns.data() : gus[0].data()) + e * (p ? dn_scale : gu_scale), p ? n_ff : n_embd },
				              { oss || p ? nullptr : gu[1].data() + e * gu_code, oss || p ? nullptr : gus[1].data() + e * gu_scale, n_embd } };
			const int layout = p ? DOWN : oss ? OSS_GATE_UP : DS_GATE_UP, k = p ? n_ff : n_embd, n_block = p ? n_embd / 64 : n_ff / 32;
			const int offset = pack_ref(layout, m, p ? dn_scale : gu_scale, n_block, k, want.data());
			CHECK(!memcmp(want.data(), &got[e * per], per), "%s: expert %d of %dx%dx%d source %d", part[p].name, e, E, n_embd, n_ff, source);
			float mul;
			memcpy(&mul, &(*part[p].mul)[4 * e], 4);
			CHECK(mul == ldexpf(1, offset), "%s: expert %d has mul %g, wanted 2^%d", part[p].name, e, mul, offset);
			for (int i = 0; i < 20000; i++) { /* back, from the device's bytes */
				const int b = rnd_int(n_block), at = rnd_int(k / 64), r = rnd_int(64), c = rnd_int(64);
				int code, field;
				unpack(&got[e * per + ((size_t)b * (k / 64) + at) * MOE_ATOM_BYTES], r, c, &code, &field);
				const place s = source_of(layout, m, b, r);
				const int scale = s.m->s(s.row, 2 * at + c / 32);
				CHECK(code == s.m->at(s.row, 64 * at + c), "%s: code of row %d k %d", part[p].name, s.row, 64 * at + c);
				CHECK(scale == 255 ? field == 255 : field == 0 ? scale + 126 - offset <= 0 : field - 126 + offset == scale,
				      "%s: field %d for scale %d, offset %d", part[p].name, field, scale, offset);
				CHECK(scale == 255 || field <= 254, "%s: field %d for scale %d, offset %d", part[p].name, field, scale, offset);
			}
		}
		for (size_t i = part[p].n; i < got.size(); i++)
			CHECK(got[i] == POISON, "%s: written past the end", part[p].name);
		for (int i = 0; i < GUARD; i++)
			CHECK((*part[p].mul)[4 * E + i] == POISON, "%s: mul written past the end", part[p].name);
	}
	const bytes bias[2] = { download(o_gb, sz.gate_up_bias + GUARD), download(o_db, sz.down_bias + GUARD) };
	for (int p = 0; p < 2; p++) {
		const bytes &src = p ? db : gb;
		for (size_t i = 0; i < src.size() / 2; i++) {
			const uint8_t want[4] = { 0, 0, src[2 * i], src[2 * i + 1] };
			CHECK(!memcmp(want, &bias[p][4 * i], 4), "bias %d: element %zu", p, i);
		}
		CHECK(bias[p].back() == POISON, "bias %d: written past the end", p);
	}
	for (uint8_t *q : { d_gu[0], d_gu[1], d_gus[0], d_gus[1], d_dn, d_dns, d_gb, d_db, o_gu, o_dn, o_gm, o_dm, o_gb, o_db })
		cudaFree(q);
}

TEST(pack_small)
{
	for (int source : { 0, 1 })
		for (int n_embd : { 64, 128, 704, 1088 })
			for (int n_ff : { 64, 192, 576 })
				pack_case(source, 5, n_embd, n_ff, rnd_int(2));
}
TEST(sanitize) { pack_case(MOXIE_MOE_GPT_OSS, 2, 192, 128, true), pack_case(MOXIE_MOE_DEEPSEEK_V4, 2, 128, 192, false); }
TEST(pack_gpt_oss) { pack_case(MOXIE_MOE_GPT_OSS, 3, 2880, 2880, false); }
TEST(pack_gpt_oss_parts) { pack_case(MOXIE_MOE_GPT_OSS, 2, 2880, 2880, true); }
TEST(pack_deepseek_v4) { pack_case(MOXIE_MOE_DEEPSEEK_V4, 2, 4096, 2048, false); }
TEST(pack_deepseek_v4_pro) { pack_case(MOXIE_MOE_DEEPSEEK_V4, 1, 7168, 3072, true); }

TEST(pack_refusals)
{
	struct moxie_moe_pack_sizes sz;
	struct moxie_err err = {};
	CHECK(moxie_moe_pack_bytes(8, 2900, 2880, &sz, &err) == MOXIE_E_SHAPE && strstr(err.text, "2900"), "%s", err.text);
	CHECK(moxie_moe_pack_bytes(0, 2880, 2880, &sz, &err) == MOXIE_E_ARG, "%s", err.text);
	struct moxie_moe_pack_args a = {};
	a.n_expert = 2, a.n_embd = a.n_ff = 64;
	CHECK(moxie_moe_pack(&a, 0, &err) == MOXIE_E_ARG && strstr(err.text, "gate_up"), "%s", err.text);
	a.source = 7;
	CHECK(moxie_moe_pack(&a, 0, &err) == MOXIE_E_ARG, "%s", err.text);
	a.source = 0, a.expert0 = 1, a.n_expert_part = 2;
	CHECK(moxie_moe_pack(&a, 0, &err) == MOXIE_E_ARG, "%s", err.text);
}

TEST_MAIN
