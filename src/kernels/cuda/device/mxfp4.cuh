/* mxfp4.cuh - one thread's 16 bytes of codes and 4 scale bytes of an atom -> bf16 A fragments of four m64k16 steps.
 *
 * A code is s e1 e0 m.  A bf16 with s at bit 15 and e1 e0 m at bits 8..6 (mask 0x81C0) is the code's value times 2^-126, the
 * subnormal code included.  The multiplication by 2^126 that repairs it also applies the block's scale, so scales cost
 * nothing per value.  Bit order and scale word: moe_layout.h.  13.5 instructions per 8 codes.
 */
#ifndef MOXIE_DEVICE_MXFP4_CUH
#define MOXIE_DEVICE_MXFP4_CUH

#include <stdint.h>

#include "device/ptx.cuh"

#define MXFP4_CODE_MASK 0x81C081C0u

__device__ __forceinline__ uint32_t rotl(uint32_t x, int k) { return __funnelshift_l(x, x, k); }
/* Half-register moves, not PRMT: ptxas folds them into HMUL2's operand (.H0_H0, .H1_H1). */
__device__ __forceinline__ uint32_t twice_low(uint32_t x)
{
	uint32_t d;
	asm("{ .reg .b16 l, h; mov.b32 {l, h}, %1; mov.b32 %0, {l, l}; }" : "=r"(d) : "r"(x));
	return d;
}
__device__ __forceinline__ uint32_t twice_high(uint32_t x)
{
	uint32_t d;
	asm("{ .reg .b16 l, h; mov.b32 {l, h}, %1; mov.b32 %0, {h, h}; }" : "=r"(d) : "r"(x));
	return d;
}
/* Two words (two k16 steps of one k group) -> two A fragments; m0, m1: multipliers of rows g and g + 8. */
__device__ __forceinline__ void mxfp4_expand(uint32_t u, uint32_t v, uint32_t m0, uint32_t m1, uint32_t merge, uint32_t (&a)[4], uint32_t (&b)[4])
{
	uint32_t w; /* (u & m) | (v & ~m): one instruction only if ptxas does not know m */
	asm("lop3.b32 %0, %1, %2, %3, 0xE4;" : "=r"(w) : "r"(u), "r"(v), "r"(merge));
	a[0] = mul_bf16x2(u & MXFP4_CODE_MASK, m0);
	a[1] = mul_bf16x2((u << 6) & MXFP4_CODE_MASK, m1);
	a[2] = mul_bf16x2(rotl(u, 12) & MXFP4_CODE_MASK, m0);
	a[3] = mul_bf16x2((w << 4) & MXFP4_CODE_MASK, m1);
	b[0] = mul_bf16x2((v << 2) & MXFP4_CODE_MASK, m0);
	b[1] = mul_bf16x2(rotl(v, 8) & MXFP4_CODE_MASK, m1);
	b[2] = mul_bf16x2(rotl(v, 14) & MXFP4_CODE_MASK, m0);
	b[3] = mul_bf16x2(rotl(w, 10) & MXFP4_CODE_MASK, m1);
}
/* The mask that joins the leftover bits of two words; not a constant to the compiler. */
__device__ __forceinline__ uint32_t mxfp4_merge_mask()
{
	uint32_t m;
	asm volatile("mov.b32 %0, 0x60306030;" : "=r"(m));
	return m;
}
__device__ __forceinline__ void mxfp4_expand_atom(uint4 w, uint32_t scales, uint32_t merge, uint32_t (&a)[4][4])
{
	uint32_t x = scales & 0x7F807F80u, y = __byte_perm(scales, 0, 0x2301) & 0x7F807F80u;
	mxfp4_expand(w.x, w.y, twice_low(x), twice_high(x), merge, a[0], a[1]);
	mxfp4_expand(w.z, w.w, twice_low(y), twice_high(y), merge, a[2], a[3]);
}

#endif
