/* bench_moe.h - `moxie bench moe [--shape NAME] [--tokens N,...] [--replays N] [--rest MS] [--explain]`: one MoE layer on the GPU, from
 * logits to combined output, against its floor; --explain says instead which kernel serves how many tokens, and why. */
#ifndef BENCH_MOE_H
#define BENCH_MOE_H

int bench_moe_main(int argc, char **argv); /* argv[0] is "moe"; returns the exit code */

#endif
