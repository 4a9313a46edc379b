/* moe_portable.cu - the instances of the portable expert kernel, and the ring that a device's shared memory allows; moe_portable.cuh has the rest. */
#include "moe_portable.cuh"

#define INSTANCE(name, shape) \
	{ name, shape::N, shape::RB, shape::THREADS, shape::STAGE, shape::REFILL ? shape::REFILL : 2 * shape::LOCKSTEP, shape::REFILL > 0, (const void *)moe_portable_kernel<shape> }

using n8_k5 = portable_shape<16, 1, 1, 1, 1, 5, true>;
using n8_k3 = portable_shape<16, 1, 1, 1, 1, 3, true, 2>;
using n16_k4 = portable_shape<16, 1, 1, 1, 2, 4, true>;
using n16_k3 = portable_shape<16, 1, 1, 1, 2, 3, true>;
using n32 = portable_shape<8, 1, 2, 2, 4, 1, false>;
using n64 = portable_shape<8, 1, 2, 4, 8, 1, false>;
using n128 = portable_shape<8, 1, 2, 9, 16, 1, false>;

/* By ascending width; of one width the one that wants most shared memory first. */
const struct moe_portable_instance moe_portable_instances[MOE_N_PORTABLE] = {
	INSTANCE("portable_n8", n8_k5),   INSTANCE("portable_n8s", n8_k3), INSTANCE("portable_n16", n16_k4),  INSTANCE("portable_n16s", n16_k3),
	INSTANCE("portable_n32", n32),    INSTANCE("portable_n64", n64),   INSTANCE("portable_n128", n128),
};

int moe_portable_smem(const struct moe_portable_instance *in, int n_stage) { return n_stage * (in->stage_bytes + 16); }

/* As many as fit; of more than two one is left for warps to drift apart. */
int moe_portable_stages(const struct moe_portable_instance *in, int smem)
{
	const int n = smem / moe_portable_smem(in, 1), least = in->n_stage ? in->n_stage : 2, most = in->n_stage ? in->n_stage : 8;
	return n < least ? 0 : n < most ? n : most;
}
