/* The layouts of activations in memory, and quantization into them. */

#ifndef SPARSEKIT_ENCODER_TENSORS_H
#define SPARSEKIT_ENCODER_TENSORS_H

#include "vectors.h"

/* FLOAT32: x itself. The others store q = clip(round(x / scale) + zero_point, low, high): ROUNDED
   as the float32 value (q - zero_point) * scale, the other two as bytes. PACKED: four features of a
   token side by side. PLANES: one feature's bytes of GROUP vectors of tokens, in the order of
   `pack`. TILES and MASKED_TILES are formats of weights, whose inputs are PACKED. */
enum { FLOAT32, ROUNDED, PACKED, PLANES, TILES, MASKED_TILES };

typedef struct {
    long format;
    float scale, inverse, zero_point, low, high;
} quantizer;

/* The number of vectors of tokens whose bytes fill one vector. */
#define GROUP 4

/* A tensor [tiles][features][width of the tile]; if PACKED [tiles][features / 4][width], if PLANES
   [tiles][features][width / GROUP, rounded up]. All tiles but the last have a width of TILE, for
   which a tensor takes units * TILE vectors, with features / 4 units if it is PACKED or PLANES. */
typedef struct {
    integers *data;
    long units;
    const quantizer *rounding;
} columns;

INLINE long tile_width(long vectors, long tile) { return min_long(TILE, vectors - tile * TILE); }
INLINE integers *tile_data(const columns *tensor, long tile) {
    return tensor->data + tile * TILE * tensor->units;
}
INLINE long group_count(long width) { return (width + GROUP - 1) / GROUP; }

/* q - zero_point as integers, clipped before rounding, since the limits are integers. */
INLINE integers centered_integers(vector x, const quantizer *rounding) {
    vector q = x * rounding->inverse;
    q = maximum(q, broadcast(rounding->low - rounding->zero_point));
    q = minimum(q, broadcast(rounding->high - rounding->zero_point));
    return (integers)(q + ROUNDING_SHIFT) - (integers)broadcast(ROUNDING_SHIFT);
}

INLINE vector fake_quantize(vector x, const quantizer *rounding) {
    return to_float(centered_integers(x, rounding)) * rounding->scale;
}

/* q as 0 to 255; in two's complement if the limits are those of int8. */
INLINE integers to_byte(vector x, const quantizer *rounding) {
    return (centered_integers(x, rounding) + (int32_t)rounding->zero_point) & 255;
}

#ifdef INT8_WEIGHTS
/* Packs four vectors of values up to 255 to bytes: each 128 bits have four bytes of the first
   vector, four of the second, and so on. INTERLEAVE with other such vectors undoes that. */
INLINE integers pack(const integers q[GROUP]) {
#if LANES == 16
    __m512i low = _mm512_packus_epi32((__m512i)q[0], (__m512i)q[1]);
    __m512i high = _mm512_packus_epi32((__m512i)q[2], (__m512i)q[3]);
    return (integers)_mm512_packus_epi16(low, high);
#elif LANES == 8
    __m256i low = _mm256_packus_epi32((__m256i)q[0], (__m256i)q[1]);
    __m256i high = _mm256_packus_epi32((__m256i)q[2], (__m256i)q[3]);
    return (integers)_mm256_packus_epi16(low, high);
#elif defined __wasm_simd128__
    return (integers)wasm_u8x16_narrow_i16x8(wasm_i16x8_narrow_i32x4((v128_t)q[0], (v128_t)q[1]),
                                             wasm_i16x8_narrow_i32x4((v128_t)q[2], (v128_t)q[3]));
#else
    int16x8_t low = vcombine_s16(vmovn_s32((int32x4_t)q[0]), vmovn_s32((int32x4_t)q[1]));
    int16x8_t high = vcombine_s16(vmovn_s32((int32x4_t)q[2]), vmovn_s32((int32x4_t)q[3]));
    return (integers)vcombine_s8(vmovn_s16(low), vmovn_s16(high));
#endif
}

/* Stores the lanes of n vectors of `packed` from `first` on, and leaves the rest, which other
   threads may be writing. */
INLINE void store_vectors(integers *to, integers packed, long first, const int n) {
#if LANES == 4
    for (int i = 0; i < n; i++)
        ((int32_t *)to)[first + i] = packed[first + i];
#elif LANES == 16
    _mm512_mask_storeu_epi32(to, (__mmask16)((((1 << n) - 1) << first) * 0x1111), (__m512i)packed);
#else
    integers lane_index = (integers){0, 1, 2, 3, 0, 1, 2, 3} - (int32_t)first;
    _mm256_maskstore_epi32((int *)to, (__m256i)((lane_index >= 0) & (lane_index < n)),
                           (__m256i)packed);
#endif
}

/* Stores n vectors of one feature, from v on: 1, or 2 or 4 that do not cross the middle or the end
   of a group. */
INLINE void store_planes(const columns *to, integers *plane, long v, const vector *values,
                         const int n) {
    integers q[GROUP];
#pragma GCC unroll 4
    for (int i = 0; i < GROUP; i++)
        q[i] = i < n ? to_byte(values[i], to->rounding) : q[i % n];
    if (n == GROUP)
        plane[v / GROUP] = pack(q);
    else
        store_vectors(plane + v / GROUP, pack(q), v % GROUP, n);
}
#endif

/* Stores four features, from `feature` on, of n vectors of a tile, from v on; n is 1, 2 or 4. */
INLINE void store(const columns *to, integers *tile, long width, long feature, long v,
                  const vector values[4][GROUP], const int n) {
    long format = to->rounding->format;
#ifdef INT8_WEIGHTS
    if (format == PLANES) {
        long groups = group_count(width);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            integers *plane = tile + (feature + i) * groups;
            if (v % n == 0)
                store_planes(to, plane, v, values[i], n);
            else
                for (int j = 0; j < n; j++)
                    store_planes(to, plane, v + j, values[i] + j, 1);
        }
        return;
    }
    if (format == PACKED) {
#pragma GCC unroll 4
        for (int j = 0; j < n; j++) {
            integers four = {0};
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
                four |= to_byte(values[i][j], to->rounding) << (8 * i);
            tile[feature / 4 * width + v + j] = four;
        }
        return;
    }
#endif
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < n; j++) {
            vector x = values[i][j];
            tile[(feature + i) * width + v + j] =
                (integers)(format == FLOAT32 ? x : fake_quantize(x, to->rounding));
        }
    }
}

/* A sequence: its first vector, its number of tokens, and its row in the batch. */
typedef struct {
    long first, tokens, row;
} sequence;

INLINE long vector_count(const sequence *seq) { return (seq->tokens + LANES - 1) / LANES; }

/* The first vector of each sequence, side by side, for PLANES, where its bytes are interleaved with
   those of its group. */
static void gather_first_planes(const columns *source, long vectors, const sequence *sequences,
                                long count, const columns *to) {
    long groups = group_count(tile_width(vectors, 0)), to_groups = group_count(count);
    for (long f = 0; f < 4 * source->units; f++)
        for (long s = 0; s < count; s++)
            for (long four = 0; four < LANES; four += GROUP)
                to->data[f * to_groups + s / GROUP][four + s % GROUP] =
                    source->data[f * groups + sequences[s].first / GROUP]
                                [four + sequences[s].first % GROUP];
}

/* The first vector of each sequence, side by side. */
static void gather_first_vectors(const columns *source, long vectors, const sequence *sequences,
                                 long count, const columns *to) {
    if (source->rounding->format == PLANES) {
        gather_first_planes(source, vectors, sequences, count, to);
        return;
    }
    for (long u = 0; u < source->units; u++)
        for (long s = 0; s < count; s++)
            to->data[u * count + s] = source->data[u * tile_width(vectors, 0) + sequences[s].first];
}

#endif
