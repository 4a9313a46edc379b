/* dense_map.h - tensor maps of dense operands: bf16, 3-D, boxes 64 wide with 128-byte swizzle. */
#ifndef MOXIE_CUDA_DENSE_MAP_H
#define MOXIE_CUDA_DENSE_MAP_H

#include <../include/cuda.h> /* the toolkit's: <cuda.h> would find ours */
#include <cuda_runtime.h>

/* Over p [n2, n1, n0], boxes [b2, b1, 64].  What lies outside reads as zero.  n0 % 8 == 0, p 16-byte aligned. */
cudaError_t dense_map(CUtensorMap *m, const void *p, int n0, int n1, int n2, int b1, int b2);

#endif
