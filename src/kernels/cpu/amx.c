#include "kernels/cpu/cpu.h"
const struct cpu_ops *cpu_isa_amx(const char **missing) { *missing = "AMX"; return NULL; }
