# cuda.mk - the CUDA backend, a library of its own: `make cuda`, `make test-gpu`, `make bench-gpu`.  Nothing here is built unless asked.
# Kernels of Hopper alone (CU_HOPPER: wgmma, TMA, clusters) are built for sm_90a; all others also for sm_80 (which sm_86 and sm_89 run),
# for sm_120, and as PTX of sm_80 for what comes later.  `make cuda CUDA_ARCHS=90a` builds for Hopper alone, in less time.
# A ptxas warning that wgmma was serialised or given too few registers (C75xx), or a spill in a wgmma expert kernel, fails the build: it
# costs more than any tuning gains.

NVCC      = nvcc
CUDA_ARCHS = 80 90a 120
CU_GEN90  = -gencode=arch=compute_90a,code=sm_90a
CU_GEN80  = -gencode=arch=compute_80,code='[sm_80,compute_80]'
CU_GEN120 = -gencode=arch=compute_120,code=sm_120
CU_GEN    = $(if $(filter 90a,$(CUDA_ARCHS)),$(CU_GEN90)) $(if $(filter 80,$(CUDA_ARCHS)),$(CU_GEN80)) $(if $(filter 120,$(CUDA_ARCHS)),$(CU_GEN120))
CU_HOPPER = attn_prefill dense_f8 dense_f8_many dense_small dense_wide fp8_gemm fp8_gemm_large fp8_gemm_small moe_route_joined sample moe_experts_loose_n8 moe_experts_pair moe_route_joined_many \
            $(patsubst src/kernels/cuda/%.cu,%,$(wildcard src/kernels/cuda/moe_experts_rows*.cu))
NVCCFLAGS = -O3 -std=c++17 $(if $(filter $(CU_HOPPER),$(basename $(@F))),$(CU_GEN90),$(CU_GEN)) -Xptxas -v -Xcompiler -fPIC,-Wall,-Wextra,-fvisibility=hidden,-iquote,src/kernels/cuda -Iinclude -Isrc --cudart static
CU_HEAD  := $(wildcard src/kernels/cuda/*.h src/kernels/cuda/*.cuh src/kernels/cuda/device/*.cuh include/*.h) src/base/err.h
CU_OBJ   := $(patsubst src/kernels/cuda/%.cu,$(B)/cuda/%.o,$(wildcard src/kernels/cuda/*.cu)) $(B)/cuda/err.o
CU_TESTS := $(patsubst tests/cuda/%.cu,$(B)/cuda/%,$(wildcard tests/cuda/test_*.cu))
CU_BENCH := $(patsubst bench/%.cu,$(B)/cuda/%,$(wildcard bench/bench_*.cu))
BENCH_GPU_ARGS =# passed to each bench

.PHONY: FORCE cuda test-gpu bench-gpu plots
cuda: $(B)/libmoxie-cuda.so                      ## build the CUDA backend, needs nvcc
test-gpu: $(CU_TESTS)                            ## build and run the tests of the CUDA backend, needs a GPU
	@for t in $^; do echo "$$t"; $$t || exit 1; done
bench-gpu: $(CU_BENCH)                           ## measure the CUDA backend, needs a GPU
	@for b in $^; do $$b $(BENCH_GPU_ARGS) || exit 1; done
plots:                                           ## draw docs/*_h200.svg from bench/results, needs gnuplot-nox
	@tools/plot_moe.sh && tools/plot_model.sh

$(B)/cuda/err.o: src/base/err.c src/base/err.h include/moxie_status.h
	@mkdir -p $(@D) && $(CC) $(FLAGS) -c -o $@ $<
$(B)/cuda/ref_attn.o: src/kernels/cpu/ref_attn.c src/kernels/cpu/ref.h src/kernels/kernels.h
	@mkdir -p $(@D) && $(CC) $(filter-out -fopenmp,$(FLAGS)) -Wno-unknown-pragmas -Wno-unused-parameter -c -o $@ $<
$(B)/cuda/sampler.o: src/engine/sampler.c src/engine/sampler.h include/moxie.h
	@mkdir -p $(@D) && $(CC) $(FLAGS) -c -o $@ $<
$(B)/cuda/%.o: src/kernels/cuda/%.cu
	@mkdir -p $(@D) && echo "NVCC $<"
	@$(NVCC) $(NVCCFLAGS) -MMD -MP -MF $(@:.o=.d) -c -o $@ $< > $@.log 2>&1 || { cat $@.log; exit 1; }
	@! grep -E 'warning|\(C75[0-9]+\)' $@.log || { rm -f $@; exit 1; }
$(B)/cuda/moe_experts_%.o: src/kernels/cuda/moe_experts_%.cu
	@mkdir -p $(@D) && echo "NVCC $<"
	@$(NVCC) $(NVCCFLAGS) -MMD -MP -MF $(@:.o=.d) -c -o $@ $< > $@.log 2>&1 || { cat $@.log; exit 1; }
	@! grep -E 'warning|\(C75[0-9]+\)|[1-9][0-9]* bytes spill' $@.log || { rm -f $@; exit 1; }
$(B)/libmoxie-cuda.so: $(CU_OBJ)
	@$(NVCC) -shared --cudart static -Xlinker -soname,libmoxie-cuda.so.0 -o $@ $^ -ldl
	@ln -sf libmoxie-cuda.so $(B)/libmoxie-cuda.so.0
$(B)/cuda/test_attn: $(B)/cuda/ref_attn.o# the plain C op, to compare with
$(B)/cuda/test_sample: $(B)/cuda/sampler.o# likewise
$(B)/cuda/test_%: tests/cuda/test_%.cu $(CU_OBJ) $(CU_HEAD) $(wildcard tests/cuda/*.h tests/cuda/*.cuh)
	@echo "NVCC $<"
	@$(NVCC) $(filter-out -Xptxas -v,$(NVCCFLAGS)) -o $@ $< $(filter %.o,$^) -ldl
$(B)/cuda/bench_%: bench/bench_%.cu $(CU_OBJ) $(CU_HEAD) $(wildcard tests/cuda/*.h tests/cuda/*.cuh)
	@echo "NVCC $<"
	@$(NVCC) $(filter-out -Xptxas -v,$(NVCCFLAGS)) -o $@ $< $(CU_OBJ) -ldl
-include $(CU_OBJ:.o=.d)
$(filter-out $(patsubst %.d,%.o,$(wildcard $(B)/cuda/*.d)),$(CU_OBJ)): FORCE# an object whose headers nobody wrote down
FORCE:
