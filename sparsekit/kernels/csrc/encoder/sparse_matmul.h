/* Products of tokens with a weight whose zeros are left out.

The weight's form is that of the tensor that it meets. PLAIN, as float32, and FOURS, as four int8
inputs of one output side by side, come in units of 32 bits; units of zeros are left out. Most units
of FOURS have a single number where 80 % and more are zero, and the other three are multiplied for
nothing. PLANES take such a weight number by number: any four of an output's inputs make a step, and
the bytes that they meet are interleaved on the way, with two operations for each product. So FOURS
are for dense weights.

Sums of bytes are exact; those of floats are added in the units' order, or in that of two halves. */

#ifndef SPARSEKIT_ENCODER_SPARSE_MATMUL_H
#define SPARSEKIT_ENCODER_SPARSE_MATMUL_H

#include "tensors.h"
#include "vectors.h"

/* Units of a chunk of the inputs: of a tile they fill 48 KB, or half of that, so most of them stay
   in the first-level cache while all outputs take what they need. */
#define UNITS 96
/* Inputs of a chunk of PLANES. Of a tile they fill 96 KB, in the second-level cache: a step waits
   for its shuffles, not for memory, and in shorter chunks rows end too soon. */
#define INPUTS 768

/* What row r has in chunk c, units or steps, begins at pointers[c * (rows + 1) + r] and ends at the
   next pointer. A unit has its place within the chunk, a byte; a step has four, of two bytes. A sum
   begins at starts[r], which takes the input's zero point out; y = sum * scales[r] + biases[r]. */
typedef struct {
    long rows, chunks, form;
    const int32_t *pointers;
    const void *places;
    const int32_t *values, *starts;
    const float *scales, *biases;
} weight;

INLINE integers add_product(integers sum, integers x, integers value, const int form) {
#ifdef PRODUCTS_OF_BYTES
    if (form != PLAIN)
        return (integers)BYTES_ADDED(sum, x, value);
#endif
    (void)form;
    return (integers)((vector)sum + (vector)x * (vector)value);
}

/* sum [width] += the unit at `place` of x, [UNITS][width], times four bytes or a number. */
INLINE void add_unit(integers *sum, const integers *x, unsigned place, int32_t value,
                     const int width, const int form) {
    const integers *unit = (const integers *)((const char *)x + place * width * sizeof *x);
#pragma GCC unroll 8
    for (int v = 0; v < width; v++)
        sum[v] = add_product(sum[v], unit[v], value - (integers){0}, form);
}

/* Row r's units of a chunk times x. Two sums take turns where there are registers for both, so that
   a product need not wait for the one before. */
INLINE void add_units(const weight *w, long k, long end, const integers *x, integers *sum,
                      const int width, const int form) {
    const uint8_t *places = w->places;
    integers others[TILE] = {0};
    for (; k + 4 <= end; k += 4) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            add_unit(i % CHAINS ? others : sum, x, places[k + i], w->values[k + i], width, form);
    }
    for (; k < end; k++)
        add_unit(sum, x, places[k], w->values[k], width, form);
#pragma GCC unroll 8
    for (int v = 0; v < width && CHAINS > 1; v++)
        sum[v] =
            form == PLAIN ? (integers)((vector)sum[v] + (vector)others[v]) : sum[v] + others[v];
}

#ifdef PRODUCTS_OF_BYTES
/* sum [n] += four planes of a group of n vectors times the four bytes of `value`. */
INLINE void add_planes(integers *sum, const integers *x[4], long group, integers value,
                       const int n) {
    integers of[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        of[i] = x[i][group];
        /* Else the compiler reads each of them twice. */
        __asm__("" : "+v"(of[i]));
    }
    integers front = INTERLEAVED(lo, 8, of[0], of[1]), back = INTERLEAVED(lo, 8, of[2], of[3]);
    sum[0] = (integers)BYTES_ADDED(sum[0], INTERLEAVED(lo, 16, front, back), value);
    if (n > 1)
        sum[1] = (integers)BYTES_ADDED(sum[1], INTERLEAVED(hi, 16, front, back), value);
    if (n > 2) {
        front = INTERLEAVED(hi, 8, of[0], of[1]), back = INTERLEAVED(hi, 8, of[2], of[3]);
        sum[2] = (integers)BYTES_ADDED(sum[2], INTERLEAVED(lo, 16, front, back), value);
    }
    if (n > 3)
        sum[3] = (integers)BYTES_ADDED(sum[3], INTERLEAVED(hi, 16, front, back), value);
}

/* Row r's steps of a chunk times x [INPUTS][groups]. */
INLINE void add_steps(const weight *w, long k, long end, const integers *x, integers *sum,
                      const int width) {
    const unsigned long groups = groups_of(width);
    for (; k < end; k++) {
        const uint16_t *places = (const uint16_t *)w->places + 4 * k;
        const integers *planes[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            planes[i] = x + places[i] * groups;
        integers value = w->values[k] - (integers){0};
#pragma GCC unroll 2
        for (int v = 0; v < width; v += GROUP)
            add_planes(sum + v, planes, v / GROUP, value, width - v < GROUP ? width - v : GROUP);
    }
}
#endif

/* Asks for the weights that some 15 rows later are read: at few tokens a row is done before memory
   answers. What a row takes of 90 % zeros fits in three lines, or in two lines twice. */
INLINE void fetch_ahead(const weight *w, long k, const int form) {
    if (form == PLANES) {
#pragma GCC unroll 3
        for (long line = 0; line < 3; line++)
            __builtin_prefetch((const uint16_t *)w->places + 4 * (k + 288 + 8 * line));
#pragma GCC unroll 2
        for (long line = 0; line < 2; line++)
            __builtin_prefetch(w->values + k + 288 + 16 * line);
        return;
    }
    __builtin_prefetch((const uint8_t *)w->places + k + 1024);
#pragma GCC unroll 3
    for (long line = 0; line < 3; line++)
        __builtin_prefetch(w->values + k + 512 + 16 * line);
}

/* sums [last - first][width] += what the rows have of a chunk times x. */
INLINE void multiply_chunk(const weight *w, long chunk, long first, long last, const integers *x,
                           integers *sums, const int width, const int form) {
    const int32_t *pointers = w->pointers + chunk * (w->rows + 1);
    for (long r = first; r < last; r++, sums += width) {
        integers sum[TILE];
#pragma GCC unroll 8
        for (int v = 0; v < width; v++)
            sum[v] = chunk ? sums[v] : w->starts[r] - (integers){0};
        long k = pointers[r], end = pointers[r + 1];
        fetch_ahead(w, k, form);
#ifdef PRODUCTS_OF_BYTES
        if (form == PLANES)
            add_steps(w, k, end, x, sum, width);
        else
#endif
            add_units(w, k, end, x, sum, width, form);
#pragma GCC unroll 8
        for (int v = 0; v < width; v++)
            sums[v] = sum[v];
    }
}

#define WIDTH(n)                                                                                   \
    case n:                                                                                        \
        if (w->form == PLANES)                                                                     \
            multiply_chunk(w, chunk, first, last, x, sums, n, PLANES);                             \
        else if (w->form == FOURS)                                                                 \
            multiply_chunk(w, chunk, first, last, x, sums, n, FOURS);                              \
        else                                                                                       \
            multiply_chunk(w, chunk, first, last, x, sums, n, PLAIN);                              \
        break;

static void multiply(const weight *w, long chunk, long first, long last, const integers *x,
                     integers *sums, long width) {
    switch (width) { WIDTH(1) WIDTH(2) WIDTH(3) WIDTH(4) WIDTH(5) WIDTH(6) WIDTH(7) WIDTH(8) }
}

/* Vectors that a chunk of the inputs takes, in a tile of that width. */
INLINE long chunk_vectors(const weight *w, long width) {
    return w->form == PLANES ? INPUTS * groups_of(width) : UNITS * width;
}

#endif
