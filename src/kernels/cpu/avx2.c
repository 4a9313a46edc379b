#include "kernels/cpu/cpu.h"
const struct cpu_ops *cpu_isa_avx2(const char **missing) { *missing = "AVX2"; return NULL; }
