/* Gradients of a Linear layer's weight for single examples, in the order of a group's blocks.

The weight [out, in] is flat; block k holds its entries k * size to (k + 1) * size, and group g the
blocks g * LANES to (g + 1) * LANES. */

#ifndef SPARSEKIT_FISHER_GRADIENTS_H
#define SPARSEKIT_FISHER_GRADIENTS_H

#include <string.h>

#include "vectors.h"

/* The sums of examples' gradients over their tokens; mirrored by `Products` in kernels/fisher.py.
   inputs [examples, tokens, in]; grad_outputs [examples, out, tokens], transposed. */
typedef struct {
    const float *inputs;
    const float *grad_outputs;
    long examples;
    long tokens;
    long in;
    long out;
} products;

/* Registers of sums that one pass over the tokens accumulates. */
#define STRIP 8

/* sums [count * LANES] = the sum over tokens of factors[t] * inputs[t * stride + ...]. */
#define STRIP_OF(count)                                                                            \
    do {                                                                                           \
        vector sums[count];                                                                        \
        memset(sums, 0, sizeof sums);                                                              \
        for (long t = 0; t < tokens; t++)                                                          \
            for (int v = 0; v < (count); v++)                                                      \
                sums[v] +=                                                                         \
                    factors[t] * *(const unaligned_vector *)(inputs + t * stride + v * LANES);     \
        memcpy(out, sums, sizeof sums);                                                            \
    } while (0)

static inline void wide_strip(const float *factors, const float *inputs, long stride, long tokens,
                              float *out) {
    STRIP_OF(STRIP);
}

static inline void narrow_strip(const float *factors, const float *inputs, long stride, long tokens,
                                float *out) {
    STRIP_OF(1);
}

/* out [width]: a part of one row of an example's gradient. */
static void row_part(const float *factors, const float *inputs, long stride, long tokens,
                     long width, float *out) {
    long done = 0;
    for (; done + STRIP * LANES <= width; done += STRIP * LANES)
        wide_strip(factors, inputs + done, stride, tokens, out + done);
    for (; done + LANES <= width; done += LANES)
        narrow_strip(factors, inputs + done, stride, tokens, out + done);
    if (done < width && width >= LANES) { /* overlaps what is there already */
        narrow_strip(factors, inputs + width - LANES, stride, tokens, out + width - LANES);
        return;
    }
    for (; done < width; done++) {
        float sum = 0.0f;
        for (long t = 0; t < tokens; t++)
            sum += factors[t] * inputs[t * stride + done];
        out[done] = sum;
    }
}

/* flat [count]: the entries `first` to `first + count` of an example's gradient; zeros after the
   last of the weight. */
static void example_gradient(const products *from, long example, long first, long count,
                             float *flat) {
    long weights = from->in * from->out, end = min_long(first + count, weights);
    const float *inputs = from->inputs + example * from->tokens * from->in;
    const float *grad_outputs = from->grad_outputs + example * from->tokens * from->out;
    for (long at = first; at < end;) {
        long row = at / from->in, column = at % from->in;
        long width = min_long(from->in - column, end - at);
        row_part(grad_outputs + row * from->tokens, inputs + column, from->in, from->tokens, width,
                 flat + (at - first));
        at += width;
    }
    if (end < first + count)
        memset(flat + (end > first ? end - first : 0), 0,
               4 * (end > first ? first + count - end : count));
}

/* lanes [size, LANES] = flat [LANES, size], transposed. */
static void to_lanes(const float *flat, long size, float *lanes) {
    for (long i = 0; i < size; i++)
        for (int lane = 0; lane < LANES; lane++)
            lanes[i * LANES + lane] = flat[lane * size + i];
}

#endif
