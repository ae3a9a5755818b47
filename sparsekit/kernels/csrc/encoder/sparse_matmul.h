/* Matmuls of tokens and a weight whose zeros are skipped.

The weight has the format of its input. FLOAT32 weights, and PACKED ones with four int8 inputs of an
output side by side, consist of units of 32 bits; units of zeros are skipped. At 80 % zeros and
more, most PACKED units have a single nonzero value, and three multiplications are wasted. With
PLANES, nonzero values are stored one by one: any four of an output make a step, and their input
bytes are interleaved on the fly, with two instructions per multiply-add. So PACKED is for dense
weights. With INT8_PAIRS there is no PACKED, and of the four values of a step the first two and the
last two are pairs. TILES and MASKED_TILES, for processors with AMX, are in tile_matmul.h.

int8 sums are exact; float32 values are added in the order of the units, in ACCUMULATORS sums. */

#ifndef SPARSEKIT_ENCODER_SPARSE_MATMUL_H
#define SPARSEKIT_ENCODER_SPARSE_MATMUL_H

#include "tensors.h"
#include "vectors.h"

/* Units per chunk of the inputs. For a tile they are 48 KB with 16 lanes, 24 with 8 and 12 with 4,
   so most of them stay in the L1 cache while all outputs use them. */
#define CHUNK_UNITS 96
/* Inputs per chunk with PLANES. For a tile they are 96 KB with 16 lanes, 48 with 8 and 24 with 4,
   in the L2 cache: steps are limited by shuffles, not by memory, and shorter chunks have too few
   steps per row. */
#define CHUNK_INPUTS 768

/* The units or steps of row r in chunk c begin at pointers[c * (rows + 1) + r] and end at the next
   pointer. indices: of inputs within the chunk, one uint8 per unit or four uint16 per step. A sum
   starts at initial_sums[r], which subtracts the input's zero point; y = sum * scales[r] +
   biases[r]. TILES have no pointers and indices, MASKED_TILES have masks as indices, and both as
   many chunks as tiles in a row. */
typedef struct {
    long rows, chunks, format;
    const int32_t *pointers;
    const void *indices;
    const int32_t *values, *initial_sums;
    const float *scales, *biases;
} weight;

INLINE integers multiply_add(integers sum, integers x, integers value, const int format) {
#ifdef INT8_DOT_PRODUCTS
    if (format != FLOAT32)
        return (integers)DOT_PRODUCT_ADD(sum, x, value);
#endif
    (void)format;
    return (integers)multiply_add_floats((vector)x, (vector)value, (vector)sum);
}

/* sum [width] += the unit at `index` of x [CHUNK_UNITS][width] times four int8 or one float. */
INLINE void add_unit(integers *sum, const integers *x, unsigned index, int32_t value,
                     const int width, const int format) {
    const integers *unit = (const integers *)((const char *)x + index * width * sizeof *x);
#pragma GCC unroll 8
    for (int v = 0; v < width; v++)
        sum[v] = multiply_add(sum[v], unit[v], value - (integers){0}, format);
}

/* Multiply-adds of a row's units of one chunk with x. With enough registers two sums alternate, so
   that a multiply-add need not wait for the one before. */
INLINE void add_units(const weight *w, long k, long end, const integers *x, integers *sum,
                      const int width, const int format) {
    const uint8_t *indices = w->indices;
    integers second_sums[TILE] = {0};
    for (; k + 4 <= end; k += 4) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            add_unit(i % ACCUMULATORS ? second_sums : sum, x, indices[k + i], w->values[k + i],
                     width, format);
    }
    for (; k < end; k++)
        add_unit(sum, x, indices[k], w->values[k], width, format);
#pragma GCC unroll 8
    for (int v = 0; v < width && ACCUMULATORS > 1; v++)
        sum[v] = format == FLOAT32 ? (integers)((vector)sum[v] + (vector)second_sums[v])
                                   : sum[v] + second_sums[v];
}

#ifdef __wasm_simd128__
/* sum [n] += two planes, of a group of n vectors, times the two int16 of each element of `pair`:
   there are no products of bytes to add up, and so no need to interleave four planes. */
INLINE void add_two_planes(integers *sum, integers first, integers second, v128_t pair,
                           const int n) {
    v128_t low = (v128_t)INTERLEAVE(lo, 8, first, second),
           high = (v128_t)INTERLEAVE(hi, 8, first, second);
    sum[0] += (integers)wasm_i32x4_dot_i16x8(wasm_u16x8_extend_low_u8x16(low), pair);
    if (n > 1)
        sum[1] += (integers)wasm_i32x4_dot_i16x8(wasm_u16x8_extend_high_u8x16(low), pair);
    if (n > 2)
        sum[2] += (integers)wasm_i32x4_dot_i16x8(wasm_u16x8_extend_low_u8x16(high), pair);
    if (n > 3)
        sum[3] += (integers)wasm_i32x4_dot_i16x8(wasm_u16x8_extend_high_u8x16(high), pair);
}

/* sum [n] += four planes, of a group of n vectors, times the four bytes of `value`. */
INLINE void add_planes(integers *sum, const integers *x[4], long group, integers value,
                       const int n) {
    v128_t four = wasm_i16x8_extend_low_i8x16((v128_t)value);
    add_two_planes(sum, x[0][group], x[1][group], wasm_i32x4_shuffle(four, four, 0, 0, 0, 0), n);
    add_two_planes(sum, x[2][group], x[3][group], wasm_i32x4_shuffle(four, four, 1, 1, 1, 1), n);
}
#elif defined INT8_WEIGHTS
/* sum [n] += four planes, of a group of n vectors, times the four bytes of `value`. */
INLINE void add_planes(integers *sum, const integers *x[4], long group, integers value,
                       const int n) {
    integers loaded[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        loaded[i] = x[i][group];
        /* Without this the compiler loads each of them twice. */
        __asm__("" : "+" VECTOR_REGISTER(loaded[i]));
    }
    integers front = INTERLEAVE(lo, 8, loaded[0], loaded[1]),
             back = INTERLEAVE(lo, 8, loaded[2], loaded[3]);
    sum[0] = (integers)DOT_PRODUCT_ADD(sum[0], INTERLEAVE(lo, 16, front, back), value);
    if (n > 1)
        sum[1] = (integers)DOT_PRODUCT_ADD(sum[1], INTERLEAVE(hi, 16, front, back), value);
    if (n > 2) {
        front = INTERLEAVE(hi, 8, loaded[0], loaded[1]),
        back = INTERLEAVE(hi, 8, loaded[2], loaded[3]);
        sum[2] = (integers)DOT_PRODUCT_ADD(sum[2], INTERLEAVE(lo, 16, front, back), value);
    }
    if (n > 3)
        sum[3] = (integers)DOT_PRODUCT_ADD(sum[3], INTERLEAVE(hi, 16, front, back), value);
}
#endif

#ifdef INT8_WEIGHTS
/* Multiply-adds of a row's steps of one chunk with x [CHUNK_INPUTS][groups]. */
INLINE void add_steps(const weight *w, long k, long end, const integers *x, integers *sum,
                      const int width) {
    const unsigned long groups = group_count(width);
    for (; k < end; k++) {
        const uint16_t *indices = (const uint16_t *)w->indices + 4 * k;
        const integers *planes[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            planes[i] = x + indices[i] * groups;
        integers value = w->values[k] - (integers){0};
#pragma GCC unroll 2
        for (int v = 0; v < width; v += GROUP)
            add_planes(sum + v, planes, v / GROUP, value, width - v < GROUP ? width - v : GROUP);
    }
}
#endif

/* Prefetches the weights of about 15 rows ahead: with few tokens, a row takes less time than a
   memory access. At 90 % zeros a row's data fits into three cache lines, or two times two. */
INLINE void fetch_ahead(const weight *w, long k, const int format) {
    if (format == PLANES) {
#pragma GCC unroll 3
        for (long line = 0; line < 3; line++)
            __builtin_prefetch((const uint16_t *)w->indices + 4 * (k + 288 + 8 * line));
#pragma GCC unroll 2
        for (long line = 0; line < 2; line++)
            __builtin_prefetch(w->values + k + 288 + 16 * line);
        return;
    }
    __builtin_prefetch((const uint8_t *)w->indices + k + 1024);
#pragma GCC unroll 3
    for (long line = 0; line < 3; line++)
        __builtin_prefetch(w->values + k + 512 + 16 * line);
}

/* sums [last - first][width] += one chunk of the rows times x. */
INLINE void multiply_chunk(const weight *w, long chunk, long first, long last, const integers *x,
                           integers *sums, const int width, const int format) {
    const int32_t *pointers = w->pointers + chunk * (w->rows + 1);
    for (long r = first; r < last; r++, sums += width) {
        integers sum[TILE];
#pragma GCC unroll 8
        for (int v = 0; v < width; v++)
            sum[v] = chunk ? sums[v] : w->initial_sums[r] - (integers){0};
        long k = pointers[r], end = pointers[r + 1];
        fetch_ahead(w, k, format);
#ifdef INT8_WEIGHTS
        if (format == PLANES)
            add_steps(w, k, end, x, sum, width);
        else
#endif
            add_units(w, k, end, x, sum, width, format);
#pragma GCC unroll 8
        for (int v = 0; v < width; v++)
            sums[v] = sum[v];
    }
}

#define WIDTH(n)                                                                                   \
    case n:                                                                                        \
        if (w->format == PLANES)                                                                   \
            multiply_chunk(w, chunk, first, last, x, sums, n, PLANES);                             \
        else if (w->format == PACKED)                                                              \
            multiply_chunk(w, chunk, first, last, x, sums, n, PACKED);                             \
        else                                                                                       \
            multiply_chunk(w, chunk, first, last, x, sums, n, FLOAT32);                            \
        break;

static void multiply(const weight *w, long chunk, long first, long last, const integers *x,
                     integers *sums, long width) {
    switch (width) {
        WIDTH(1) WIDTH(2) WIDTH(3) WIDTH(4) WIDTH(5) WIDTH(6) WIDTH(7) WIDTH(8) default : break;
    }
}

/* The vectors that a chunk of the inputs has in a tile of that width. */
INLINE long chunk_vectors(const weight *w, long width) {
    return w->format == PLANES ? CHUNK_INPUTS * group_count(width) : CHUNK_UNITS * width;
}

#endif
