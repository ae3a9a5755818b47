/* Vectors of float32 as wide as the registers of the processor that is compiled for.

They are extensions of GCC and Clang, which compile them to the processor's instructions. Without
registers of that width, each operation would pass through memory. */

#ifndef SPARSEKIT_LANES_H
#define SPARSEKIT_LANES_H

/* The ABI of vector arguments does not matter: they are passed within one file only. */
#pragma GCC diagnostic ignored "-Wpsabi"

/* A kernel that can do with registers of 128 bits too defines LANES before it includes this. */
#if defined __AVX512F__
#define LANES 16
#elif !defined LANES
#define LANES 8
#endif

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef float unaligned_vector __attribute__((vector_size(4 * LANES), aligned(4)));

static inline long min_long(long a, long b) { return a < b ? a : b; }

#endif
