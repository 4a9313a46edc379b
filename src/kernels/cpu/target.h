/* target.h - compiles part of a file for an instruction set that the rest of the program may not assume. */
#ifndef MOXIE_CPU_TARGET_H
#define MOXIE_CPU_TARGET_H

#define TARGET_PRAGMA(x) _Pragma(#x)
#if defined(__clang__)
#define TARGET_BEGIN(t) TARGET_PRAGMA(clang attribute push(__attribute__((target(t))), apply_to = function))
#define TARGET_END TARGET_PRAGMA(clang attribute pop)
#else
#define TARGET_BEGIN(t) TARGET_PRAGMA(GCC push_options) TARGET_PRAGMA(GCC target(t))
#define TARGET_END TARGET_PRAGMA(GCC pop_options)
#endif
#define INLINE static inline __attribute__((always_inline))

#endif
