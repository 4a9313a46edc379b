#include "kernels/cpu/cpu.h"
const struct cpu_ops *cpu_isa_avx2(const char **missing) { *missing = "AVX2"; return NULL; }
const struct cpu_ops *cpu_isa_avx512(const char **missing) { *missing = "AVX-512"; return NULL; }
const struct cpu_ops *cpu_isa_amx(const char **missing) { *missing = "AMX"; return NULL; }
void fast_fill(struct kern *k) { (void)k; }
void fast_plan(struct cpu *c) { (void)c; }
