/* Vectors of tokens and float32 functions of them; CPU only.

Between Linear layers activations are stored by feature: a vector has one feature of 16 tokens with
AVX-512, of 4 with NEON and WebAssembly, or of 8. So sums over features (LayerNorm), keys (softmax)
and inputs (Linear) never cross lanes, and one weight is multiplied with all lanes. The vector types
are extensions of GCC and Clang, which compile them to the processor's instructions. */

#ifndef SPARSEKIT_ENCODER_VECTORS_H
#define SPARSEKIT_ENCODER_VECTORS_H

#include <stdint.h>
#include <string.h>
#if defined __AVX512F__ || defined __AVX2__ || defined __FMA__
#include <immintrin.h>
#elif defined __aarch64__
#include <arm_neon.h>
#elif defined __wasm_simd128__
#include <wasm_simd128.h>
#endif

#define INLINE static inline __attribute__((always_inline))
/* Tokens per vector. */
#if defined __aarch64__ || defined __wasm_simd128__
#define LANES 4
#endif
#include "../lanes.h"
/* Sums per output that fit into the 32 or 16 registers. */
#if defined __AVX512F__ || defined __aarch64__
#define ACCUMULATORS 2
#else
#define ACCUMULATORS 1
#endif
/* The constraint of inline assembly that means any vector register. */
#if defined __aarch64__
#define VECTOR_REGISTER "w"
#elif !defined VECTOR_REGISTER
#define VECTOR_REGISTER "v"
#endif
/* Whether the processor adds four int8 products at once to each int32 sum: with VNNI on x86, with
   dotprod or i8mm on ARM. WebAssembly adds two products of int16, which is still faster than
   float32. */
#if defined __AVX512VNNI__ && defined __AVX512BW__ || defined __AVXVNNI__ && LANES == 8 ||         \
    defined __aarch64__ && defined __ARM_FEATURE_DOTPROD || defined __wasm_simd128__
#define INT8_DOT_PRODUCTS
#endif
/* Whether Linear layers may multiply bytes. AVX2 adds two products as an int16 that saturates, so
   the magnitudes of the two weights may add up to MAX_PAIR at most: 255 times it is below 2^15. */
#if defined INT8_DOT_PRODUCTS
#define INT8_WEIGHTS
#elif defined __AVX2__ && LANES == 8
#define INT8_WEIGHTS
#define INT8_PAIRS
#define MAX_PAIR 128
#endif
/* Vectors per tile, the tokens for which a weight is read once: 128, 64 or 32. */
#define TILE 8
/* Adding 1.5 * 2^23 to a value of up to 2^22 rounds it to an integer, halves to even. */
#define ROUNDING_SHIFT 12582912.0f

typedef int32_t integers __attribute__((vector_size(4 * LANES)));

#ifdef INT8_WEIGHTS
/* DOT_PRODUCT_ADD(sum, x, value): each sum plus four unsigned bytes of x times four signed bytes.
   INTERLEAVE(half, bits, a, b): the elements of the lower (lo) or upper (hi) half of each 128 bits
   of a and b in turns. */
#if LANES == 16
#define DOT_PRODUCT_ADD(sum, x, value)                                                             \
    _mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(x), (__m512i)(value))
#define INTERLEAVE(half, bits, a, b)                                                               \
    ((integers)_mm512_unpack##half##_epi##bits((__m512i)(a), (__m512i)(b)))
#elif LANES == 8
#ifdef INT8_PAIRS
#define DOT_PRODUCT_ADD(sum, x, value)                                                             \
    _mm256_add_epi32((__m256i)(sum),                                                               \
                     _mm256_madd_epi16(_mm256_maddubs_epi16((__m256i)(x), (__m256i)(value)),       \
                                       _mm256_set1_epi16(1)))
#else
#define DOT_PRODUCT_ADD(sum, x, value)                                                             \
    _mm256_dpbusd_avx_epi32((__m256i)(sum), (__m256i)(x), (__m256i)(value))
#endif
#define INTERLEAVE(half, bits, a, b)                                                               \
    ((integers)_mm256_unpack##half##_epi##bits((__m256i)(a), (__m256i)(b)))
#elif defined __wasm_simd128__
#define DOT_PRODUCT_ADD(sum, x, value) wasm_dot_product_add(sum, x, value)
#define WASM_ZIP_lo_8(a, b)                                                                        \
    wasm_i8x16_shuffle(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define WASM_ZIP_hi_8(a, b)                                                                        \
    wasm_i8x16_shuffle(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#define INTERLEAVE(half, bits, a, b) ((integers)WASM_ZIP_##half##_##bits((v128_t)(a), (v128_t)(b)))

/* Bytes become int16, of which pairs are multiplied and added, then sums of neighbours. */
INLINE integers wasm_dot_product_add(integers sum, integers x, integers value) {
    v128_t a = wasm_i32x4_dot_i16x8(wasm_u16x8_extend_low_u8x16((v128_t)x),
                                    wasm_i16x8_extend_low_i8x16((v128_t)value));
    v128_t b = wasm_i32x4_dot_i16x8(wasm_u16x8_extend_high_u8x16((v128_t)x),
                                    wasm_i16x8_extend_high_i8x16((v128_t)value));
    return sum + (integers)wasm_i32x4_shuffle(a, b, 0, 2, 4, 6) +
           (integers)wasm_i32x4_shuffle(a, b, 1, 3, 5, 7);
}
#else
#define DOT_PRODUCT_ADD(sum, x, value) neon_dot_product_add(sum, x, value)
#define NEON_ZIP_lo(bits, a, b) vzip1q_s##bits(a, b)
#define NEON_ZIP_hi(bits, a, b) vzip2q_s##bits(a, b)
#define INTERLEAVE(half, bits, a, b)                                                               \
    ((integers)NEON_ZIP_##half(bits, vreinterpretq_s##bits##_s32((int32x4_t)(a)),                  \
                               vreinterpretq_s##bits##_s32((int32x4_t)(b))))

/* dotprod multiplies bytes of one sign only: x - 128 is signed, and 128 times the sum of the values
   is added, as 64 times twice. Where one value meets several vectors, or one vector several values,
   the compiler computes that part once. */
INLINE integers neon_dot_product_add(integers sum, integers x, integers value) {
    int8x16_t signed_value = vreinterpretq_s8_s32((int32x4_t)value);
#ifdef __ARM_FEATURE_MATMUL_INT8
    uint8x16_t unsigned_x = vreinterpretq_u8_s32((int32x4_t)x);
    return (integers)vusdotq_s32((int32x4_t)sum, unsigned_x, signed_value);
#else
    int8x16_t centered =
        vreinterpretq_s8_u8(veorq_u8(vreinterpretq_u8_s32((int32x4_t)x), vdupq_n_u8(128)));
    int32x4_t offset = vdotq_s32(vdupq_n_s32(0), signed_value, vdupq_n_s8(64));
    offset = vdotq_s32(offset, signed_value, vdupq_n_s8(64));
    return sum + (integers)vdotq_s32(offset, centered, signed_value);
#endif
}
#endif
#endif

INLINE vector load(const float *x) { return *(const unaligned_vector *)x; }
INLINE vector broadcast(float x) { return x - (vector){0}; }
INLINE vector to_float(integers x) { return __builtin_convertvector(x, vector); }

/* x * y + sum, rounded once. Written out, because the encoder is compiled without contraction: a
   compiler decides on that anew wherever a function is inlined, and results would depend on which
   thread computes what. Without such an instruction it is rounded twice. */
INLINE vector multiply_add_floats(vector x, vector y, vector sum) {
#if defined __AVX512F__
    return (vector)_mm512_fmadd_ps((__m512)x, (__m512)y, (__m512)sum);
#elif defined __FMA__
    return (vector)_mm256_fmadd_ps((__m256)x, (__m256)y, (__m256)sum);
#elif defined __aarch64__
    return (vector)vfmaq_f32((float32x4_t)sum, (float32x4_t)x, (float32x4_t)y);
#else
    return x * y + sum;
#endif
}

INLINE vector where(integers condition, vector a, vector b) {
    return (vector)((condition & (integers)a) | (~condition & (integers)b));
}

INLINE vector minimum(vector a, vector b) {
#ifdef __AVX512F__
    return (vector)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined __AVX2__
    return (vector)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined __aarch64__
    return (vector)vminnmq_f32((float32x4_t)a, (float32x4_t)b);
#elif defined __wasm_simd128__
    return (vector)wasm_f32x4_pmin((v128_t)b, (v128_t)a);
#else
    return where(a < b, a, b);
#endif
}

INLINE vector maximum(vector a, vector b) {
#ifdef __AVX512F__
    return (vector)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined __AVX2__
    return (vector)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined __aarch64__
    return (vector)vmaxnmq_f32((float32x4_t)a, (float32x4_t)b);
#elif defined __wasm_simd128__
    return (vector)wasm_f32x4_pmax((v128_t)b, (v128_t)a);
#else
    return where(a > b, a, b);
#endif
}

/* The larger of x and a limit, or NaN where x is: scores that are no numbers must not become
   answers that look like some. */
INLINE vector at_least(vector x, vector limit) {
#if defined __AVX512F__ || defined __AVX2__
    return maximum(limit, x); /* The second one, where one is NaN. */
#elif defined __aarch64__
    return (vector)vmaxq_f32((float32x4_t)x, (float32x4_t)limit);
#elif defined __wasm_simd128__
    return (vector)wasm_f32x4_pmax((v128_t)x, (v128_t)limit);
#else
    return where(x < limit, limit, x);
#endif
}

/* In place, e^x of n vectors, up to 8, for x <= 0, with a relative error of about 2e-7; below -87,
   near the smallest normal float32, e^-87. Each step is done for all of them before the next: a
   processor looks only some 60 instructions ahead for one that need not wait. */
INLINE void exponentiate(vector *x, const int n) {
    static const float coefficients[] = {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
    vector shifted[8], power[8];
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        x[i] = at_least(x[i], broadcast(-87.0f));
        shifted[i] = multiply_add_floats(x[i], broadcast(1.44269504f), broadcast(ROUNDING_SHIFT));
    }
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        vector integer = shifted[i] - ROUNDING_SHIFT;
        x[i] = multiply_add_floats(integer, broadcast(-0.693359375f), x[i]);
        x[i] = multiply_add_floats(integer, broadcast(2.12194440e-4f), x[i]);
        power[i] = broadcast(1.0f / 720);
    }
#pragma GCC unroll 6
    for (int k = 0; k < 6; k++) {
#pragma GCC unroll 8
        for (int i = 0; i < n; i++)
            power[i] = multiply_add_floats(power[i], x[i], broadcast(coefficients[k]));
    }
#pragma GCC unroll 8
    for (int i = 0; i < n; i++)
        x[i] = (vector)((integers)power[i] +
                        (((integers)shifted[i] - (integers)broadcast(ROUNDING_SHIFT)) << 23));
}

INLINE vector exponential(vector x) {
    exponentiate(&x, 1);
    return x;
}

/* x * P(X < x) of the normal distribution, to 1e-6 or to one rounding of x. P - 1/2 is x times a
   polynomial of x^2, here of u = 2 x^2 / 5.3^2 - 1, fitted to minimize the largest error of the
   result; beyond 5.3 P differs from 0 or 1 by 6e-8. */
INLINE vector gelu(vector x) {
    static const float coefficients[] = {-5.243419961e-04f, 1.560400434e-03f,  -1.774710228e-03f,
                                         2.203351411e-03f,  -5.120293912e-03f, 9.334870078e-03f,
                                         -1.355654109e-02f, 1.878886550e-02f,  -2.520797523e-02f,
                                         3.209639581e-02f,  -3.959817294e-02f, 4.926343125e-02f,
                                         -6.651824208e-02f, 1.333925673e-01f};
    vector clamped = minimum(maximum(x, broadcast(-5.3f)), broadcast(5.3f));
    vector u = multiply_add_floats(clamped * clamped, broadcast(2 / (5.3f * 5.3f)),
                                   broadcast(-1.0f)),
           sum = broadcast(coefficients[0]);
#pragma GCC unroll 16
    for (int i = 1; i < 14; i++)
        sum = multiply_add_floats(sum, u, broadcast(coefficients[i]));
    return x * multiply_add_floats(clamped, sum, broadcast(0.5f));
}

/* 1 / (1 + e^-x). */
INLINE vector sigmoid(vector x) {
    vector power = exponential(minimum(x, -x));
    return where(x < 0.0f, power, broadcast(1.0f)) / (1.0f + power);
}

INLINE vector silu(vector x) { return x * sigmoid(x); }

/* The approximation x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), as (1 + tanh(y)) / 2 is
   sigmoid(2 y). */
INLINE vector gelu_tanh(vector x) { return x * sigmoid(1.59576912f * (x + 0.044715f * x * x * x)); }

#endif
