/* How tensors lie in memory between the parts of a layer, and how they are rounded to get there. */

#ifndef SPARSEKIT_ENCODER_TENSORS_H
#define SPARSEKIT_ENCODER_TENSORS_H

#include "vectors.h"

/* PLAIN: x itself. The others keep q = clip(round(x / scale) + zero_point, low, high): ROUNDED as
   the float32 (q - zero_point) * scale, the next two as bytes. FOURS: four features of a token side
   by side. PLANES: one feature's bytes of GROUP vectors of tokens, side by side as `pack` has it.
 */
enum { PLAIN, ROUNDED, FOURS, PLANES };

typedef struct {
    long kind;
    float scale, inverse, zero_point, low, high;
} quantizer;

/* Vectors of tokens whose bytes fill one vector. */
#define GROUP 4

/* A tensor [tiles][features][width of the tile]. Of FOURS it is [tiles][features / 4][width], of
   PLANES [tiles][features][width / GROUP, rounded up]. All tiles but the last are TILE wide, where
   both kinds of bytes take features / 4 * TILE vectors: so many `units` a tensor has. */
typedef struct {
    integers *data;
    long units;
    const quantizer *form;
} columns;

INLINE long width_of(long vectors, long tile) { return least(TILE, vectors - tile * TILE); }
INLINE integers *tile_of(const columns *of, long tile) {
    return of->data + tile * TILE * of->units;
}
INLINE long groups_of(long width) { return (width + GROUP - 1) / GROUP; }

/* q - zero_point, as integers. Clipped before it is rounded: the limits are integers. */
INLINE integers steps(vector x, const quantizer *form) {
    vector q = x * form->inverse;
    q = larger(q, all(form->low - form->zero_point));
    q = smaller(q, all(form->high - form->zero_point));
    return (integers)(q + ROUNDING) - (integers)all(ROUNDING);
}

INLINE vector rounded(vector x, const quantizer *form) {
    return as_floats(steps(x, form)) * form->scale;
}

/* q as 0 to 255; in two's complement where the limits are those of int8. */
INLINE integers byte_of(vector x, const quantizer *form) {
    return (steps(x, form) + (int32_t)form->zero_point) & 255;
}

#ifdef PRODUCTS_OF_BYTES
/* Four vectors of numbers up to 255 as bytes: of each 128 bits four bytes are of the first vector,
   four of the second, and so on. Interleaving such bytes with others' undoes that. */
INLINE integers pack(const integers q[GROUP]) {
#if LANES == 16
    __m512i low = _mm512_packus_epi32((__m512i)q[0], (__m512i)q[1]);
    __m512i high = _mm512_packus_epi32((__m512i)q[2], (__m512i)q[3]);
    return (integers)_mm512_packus_epi16(low, high);
#else
    __m256i low = _mm256_packus_epi32((__m256i)q[0], (__m256i)q[1]);
    __m256i high = _mm256_packus_epi32((__m256i)q[2], (__m256i)q[3]);
    return (integers)_mm256_packus_epi16(low, high);
#endif
}

/* Writes what `packed` has of n vectors from `first` on: others may be writing the rest. */
INLINE void store_packed(integers *to, integers packed, long first, const int n) {
#if LANES == 16
    _mm512_mask_storeu_epi32(to, (__mmask16)((((1 << n) - 1) << first) * 0x1111), (__m512i)packed);
#else
    integers place = (integers){0, 1, 2, 3, 0, 1, 2, 3} - (int32_t)first;
    _mm256_maskstore_epi32((int *)to, (__m256i)((place >= 0) & (place < n)), (__m256i)packed);
#endif
}

/* n vectors of one feature, from v on: 1, or 2 or 4 that do not cross a group's middle or end. */
INLINE void keep_planes(const columns *to, integers *plane, long v, const vector *values,
                        const int n) {
    integers q[GROUP];
#pragma GCC unroll 4
    for (int i = 0; i < GROUP; i++)
        q[i] = i < n ? byte_of(values[i], to->form) : q[i % n];
    if (n == GROUP)
        plane[v / GROUP] = pack(q);
    else
        store_packed(plane + v / GROUP, pack(q), v % GROUP, n);
}
#endif

/* Keep four features, from `feature` on, of n vectors of a tile, from v on: 1, 2 or 4. */
INLINE void keep(const columns *to, integers *tile, long width, long feature, long v,
                 const vector values[4][GROUP], const int n) {
    long kind = to->form->kind;
#ifdef PRODUCTS_OF_BYTES
    if (kind == PLANES) {
        long groups = groups_of(width);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            integers *plane = tile + (feature + i) * groups;
            if (v % n == 0)
                keep_planes(to, plane, v, values[i], n);
            else
                for (int j = 0; j < n; j++)
                    keep_planes(to, plane, v + j, values[i] + j, 1);
        }
        return;
    }
    if (kind == FOURS) {
#pragma GCC unroll 4
        for (int j = 0; j < n; j++) {
            integers four = {0};
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
                four |= byte_of(values[i][j], to->form) << (8 * i);
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
                (integers)(kind == PLAIN ? x : rounded(x, to->form));
        }
    }
}

/* Of a sequence: the vector that it begins at, its number of tokens, and what is added to each
   key's scores. */
typedef struct {
    long first, tokens;
    const float *mask;
} sequence;

INLINE long vectors_of(const sequence *of) { return (of->tokens + LANES - 1) / LANES; }

/* The first vector of each sequence, side by side, of PLANES: its bytes lie four by four among
   those of its group. */
static void take_first_bytes(const columns *from, long vectors, const sequence *of, long count,
                             const columns *to) {
    long groups = groups_of(width_of(vectors, 0)), to_groups = groups_of(count);
    for (long f = 0; f < 4 * from->units; f++)
        for (long s = 0; s < count; s++)
            for (long four = 0; four < LANES; four += GROUP)
                to->data[f * to_groups + s / GROUP][four + s % GROUP] =
                    from->data[f * groups + of[s].first / GROUP][four + of[s].first % GROUP];
}

/* The first vector of each sequence, side by side. */
static void take_first(const columns *from, long vectors, const sequence *of, long count,
                       const columns *to) {
    if (from->form->kind == PLANES) {
        take_first_bytes(from, vectors, of, count, to);
        return;
    }
    for (long u = 0; u < from->units; u++)
        for (long s = 0; s < count; s++)
            to->data[u * count + s] = from->data[u * width_of(vectors, 0) + of[s].first];
}

#endif
