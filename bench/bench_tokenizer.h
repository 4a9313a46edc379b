/* bench_tokenizer.h - `moxie bench tokenizer TOKENIZER.JSON TEXT [--seconds S]`: load time, encoding and decoding speed of one
 * thread on a text file. */
#ifndef BENCH_TOKENIZER_H
#define BENCH_TOKENIZER_H

int bench_tokenizer_main(int argc, char **argv); /* argv[0] is "tokenizer"; returns the exit code */

#endif
