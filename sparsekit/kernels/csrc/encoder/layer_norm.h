/* LayerNorm, and the norm by the root mean square (RMSNorm, arXiv:1910.07467). */

#ifndef SPARSEKIT_ENCODER_LAYER_NORM_H
#define SPARSEKIT_ENCODER_LAYER_NORM_H

#include "phases.h"
#include "tensors.h"
#include "vectors.h"

/* centered: whether the mean is subtracted, as in LayerNorm. */
typedef struct {
    const float *weight, *bias;
    float epsilon;
    long centered;
} norm;

/* The norm of n vectors of tokens of one tile, from v on: x [features][width] to `hidden` and to
   `to`. With keep_sums, as where layers normalize their input, `hidden` becomes x itself. */
INLINE void normalize(const norm *params, long features, const vector *x, vector *hidden,
                      int keep_sums, const columns *to, integers *tile, long width, long v,
                      const int n) {
    vector mean[GROUP], scale[GROUP], four[4][GROUP];
    for (int j = 0; j < n; j++)
        mean[j] = scale[j] = broadcast(0.0f);
    for (long f = 0; f < (params->centered ? features : 0); f++)
        for (int j = 0; j < n; j++)
            mean[j] += x[f * width + v + j];
    for (int j = 0; j < n; j++)
        mean[j] /= (float)features;
    for (long f = 0; f < features; f++)
        for (int j = 0; j < n; j++)
            scale[j] = multiply_add_floats(x[f * width + v + j] - mean[j],
                                           x[f * width + v + j] - mean[j], scale[j]);
    for (int j = 0; j < n; j++)
        for (int lane = 0; lane < LANES; lane++)
            scale[j][lane] =
                1.0f / __builtin_sqrtf(scale[j][lane] / (float)features + params->epsilon);
    for (long f = 0; f < features; f += 4) {
        for (int i = 0; i < 4; i++) {
            for (int j = 0; j < n; j++) {
                vector sum = x[(f + i) * width + v + j], y = (sum - mean[j]) * scale[j];
                four[i][j] = multiply_add_floats(y, broadcast(params->weight[f + i]),
                                                 broadcast(params->bias[f + i]));
                hidden[(f + i) * width + v + j] = keep_sums ? sum : four[i][j];
            }
        }
        store(to, tile, width, f, v, four, n);
    }
}

/* The norm of all vectors, divided among the workers. */
static void layer_norm(const norm *params, long features, const columns *x, long vectors,
                       const columns *hidden, int keep_sums, const columns *to, worker *self) {
    long pieces = piece_count(vectors, 4, self);
    for (long i = claim_piece(self); i < pieces; i = complete_and_claim(self)) {
        long last = part_begin(vectors, i + 1, pieces);
        for (long first = part_begin(vectors, i, pieces), n; first < last; first += n) {
            long tile = first / TILE, v = first % TILE, width = tile_width(vectors, tile);
            const vector *source = (const vector *)tile_data(x, tile);
            vector *hidden_tile = (vector *)tile_data(hidden, tile);
            integers *target_tile = tile_data(to, tile);
            n = min_long(last - first, width - v);
            if (n >= 4)
                n = 4, normalize(params, features, source, hidden_tile, keep_sums, to, target_tile,
                                 width, v, 4);
            else if (n >= 2)
                n = 2, normalize(params, features, source, hidden_tile, keep_sums, to, target_tile,
                                 width, v, 2);
            else
                normalize(params, features, source, hidden_tile, keep_sums, to, target_tile, width,
                          v, 1);
        }
    }
    finish_phase(self, pieces);
}

#endif
