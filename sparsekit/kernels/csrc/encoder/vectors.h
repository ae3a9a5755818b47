/* Vectors of tokens, and what is computed on them; float32, on a CPU.

Everything between two Linear layers lies by features: a vector holds one feature of 16 tokens, or
of 8 without AVX-512. So sums over features (LayerNorm), over keys (softmax) and over inputs
(Linear) never cross lanes, and one weight meets all of them at once. Vectors are those of GCC and
Clang, so the compiler maps them to what the processor has. */

#ifndef SPARSEKIT_ENCODER_VECTORS_H
#define SPARSEKIT_ENCODER_VECTORS_H

#include <stdint.h>
#include <string.h>
#if defined __AVX512F__ || defined __AVX2__
#include <immintrin.h>
#endif

/* Vectors pass between functions of one file only, so their calling convention is no matter. */
#pragma GCC diagnostic ignored "-Wpsabi"

/* Tokens of a vector, and how many sums a product may keep in registers: there are 32 or 16. */
#ifdef __AVX512F__
#define LANES 16
#define CHAINS 2
#else
#define LANES 8
#define CHAINS 1
#endif
/* Whether the processor adds four products of bytes at once to each sum (VNNI). */
#if defined __AVX512VNNI__ && defined __AVX512BW__ || defined __AVXVNNI__ && LANES == 8
#define PRODUCTS_OF_BYTES
#endif
/* Vectors of a tile, the tokens that one pass over a weight serves: 128 or 64. */
#define TILE 8
#define INLINE static inline __attribute__((always_inline))
/* A number of up to 2^22 that is added to 1.5 * 2^23 is rounded to an integer, ties to even. */
#define ROUNDING 12582912.0f

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef int32_t integers __attribute__((vector_size(4 * LANES)));

#ifdef PRODUCTS_OF_BYTES
#if LANES == 16
#define BYTES_ADDED(sum, x, value) _mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)value)
#define INTERLEAVED(half, bits, a, b)                                                              \
    ((integers)_mm512_unpack##half##_epi##bits((__m512i)a, (__m512i)b))
#else
#define BYTES_ADDED(sum, x, value) _mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)x, (__m256i)value)
#define INTERLEAVED(half, bits, a, b)                                                              \
    ((integers)_mm256_unpack##half##_epi##bits((__m256i)a, (__m256i)b))
#endif
#endif

INLINE long least(long a, long b) { return a < b ? a : b; }
INLINE vector all(float x) { return x - (vector){0}; }
INLINE vector as_floats(integers x) { return __builtin_convertvector(x, vector); }

INLINE vector where(integers condition, vector a, vector b) {
    return (vector)((condition & (integers)a) | (~condition & (integers)b));
}

INLINE vector smaller(vector a, vector b) {
#ifdef __AVX512F__
    return (vector)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined __AVX2__
    return (vector)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return where(a < b, a, b);
#endif
}

INLINE vector larger(vector a, vector b) {
#ifdef __AVX512F__
    return (vector)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined __AVX2__
    return (vector)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return where(a > b, a, b);
#endif
}

/* e^x for x up to 0, to about 2e-7 of itself; below -87, where float32 ends, that of -87. */
INLINE vector exponential(vector x) {
    x = larger(x, all(-87.0f));
    vector shifted = x * 1.44269504f + ROUNDING, n = shifted - ROUNDING;
    vector rest = x - n * 0.693359375f + n * 2.12194440e-4f;
    vector power = all(1.0f / 720);
    power = power * rest + 1.0f / 120;
    power = power * rest + 1.0f / 24;
    power = power * rest + 1.0f / 6;
    power = power * rest + 0.5f;
    power = power * rest + 1.0f;
    power = power * rest + 1.0f;
    return (vector)((integers)power + (((integers)shifted - (integers)all(ROUNDING)) << 23));
}

/* x times the normal distribution's P(X < x), to 1e-6. P - 1/2 is x times a polynomial of x^2, here
   of u = 2 x^2 / 5.3^2 - 1, fitted so that the largest error of the product is least; beyond 5.3 P
   differs from 0 or 1 by 6e-8. */
INLINE vector gelu(vector x) {
    static const float terms[] = {-5.243419961e-04f, 1.560400434e-03f,  -1.774710228e-03f,
                                  2.203351411e-03f,  -5.120293912e-03f, 9.334870078e-03f,
                                  -1.355654109e-02f, 1.878886550e-02f,  -2.520797523e-02f,
                                  3.209639581e-02f,  -3.959817294e-02f, 4.926343125e-02f,
                                  -6.651824208e-02f, 1.333925673e-01f};
    vector within = smaller(larger(x, all(-5.3f)), all(5.3f));
    vector u = within * within * (2 / (5.3f * 5.3f)) - 1.0f, sum = all(terms[0]);
#pragma GCC unroll 16
    for (int i = 1; i < 14; i++)
        sum = sum * u + terms[i];
    return x * (within * sum + 0.5f);
}

#endif
