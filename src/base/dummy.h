/* dummy.h - dummy weights: each element is a function of (seed, tensor, position), the same on every processor.
 *
 * Element i comes from dummy_mix(i + key); U8: i counts groups of four bytes.  Host and device.
 */
#ifndef MOXIE_BASE_DUMMY_H
#define MOXIE_BASE_DUMMY_H

#include "base/dtype.h"
#include "base/err.h"

#ifdef __CUDACC__
#define DUMMY_HD __host__ __device__ static inline
#else
#define DUMMY_HD static inline
#endif

struct dummy_rule {
	enum dtype dtype; /* BF16, F32 or U8 */
	uint32_t key;
	uint64_t at;      /* byte of the tensor where to begin, a multiple of 4 */
	float mean, std;  /* of BF16 and F32 */
	int scale;        /* U8: 0 = codes, uniform; else the e8m0 byte around which scales lie */
};

/* How to make what would lie at data.  0, DUMMY_AS_IT_LIES: it does lie there; or a negative enum moxie_status: err says why. */
#define DUMMY_AS_IT_LIES 1
typedef int dummy_rule_fn(void *ud, const void *data, struct dummy_rule *rule, struct moxie_err *err);

/* A good 32-bit mixer with two multiplications (Wellons' lowbias32). */
DUMMY_HD uint32_t dummy_mix(uint32_t x)
{
	x ^= x >> 16, x *= 0x7feb352du;
	x ^= x >> 15, x *= 0x846ca68bu;
	return x ^ x >> 16;
}

/* About normal, variance 1, before its scaling by DUMMY_NORMAL: the sum of the four bytes of x. */
#define DUMMY_NORMAL (1 / 147.8f) /* variance of one byte is (256^2 - 1) / 12 */
DUMMY_HD float dummy_sum(uint32_t x)
{
	uint32_t pair = (x & 0x00ff00ffu) + (x >> 8 & 0x00ff00ffu), sum = (pair & 0xffffu) + (pair >> 16);
	return (float)(int32_t)sum - 510;
}

/* Scales of 1/2, 1, 1, 2 times 2^(scale - 127). */
DUMMY_HD uint8_t dummy_scale(int scale, uint8_t v)
{
	return (uint8_t)(scale + (v & 1) - (v >> 1 & 1));
}

#endif
