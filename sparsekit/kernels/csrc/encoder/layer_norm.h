/* LayerNorm. */

#ifndef SPARSEKIT_ENCODER_LAYER_NORM_H
#define SPARSEKIT_ENCODER_LAYER_NORM_H

#include "phases.h"
#include "tensors.h"
#include "vectors.h"

typedef struct {
    const float *weight, *bias;
    float epsilon;
} norm;

/* n vectors of tokens from v on, of one tile: x [features][width] to `hidden` and to `to`. */
INLINE void normalize(const norm *how, long features, const vector *x, vector *hidden,
                      const columns *to, integers *tile, long width, long v, const int n) {
    vector mean[GROUP], scale[GROUP], four[4][GROUP];
    for (int j = 0; j < n; j++)
        mean[j] = scale[j] = all(0.0f);
    for (long f = 0; f < features; f++)
        for (int j = 0; j < n; j++)
            mean[j] += x[f * width + v + j];
    for (int j = 0; j < n; j++)
        mean[j] /= (float)features;
    for (long f = 0; f < features; f++)
        for (int j = 0; j < n; j++)
            scale[j] += (x[f * width + v + j] - mean[j]) * (x[f * width + v + j] - mean[j]);
    for (int j = 0; j < n; j++)
        for (int lane = 0; lane < LANES; lane++)
            scale[j][lane] = 1.0f / __builtin_sqrtf(scale[j][lane] / features + how->epsilon);
    for (long f = 0; f < features; f += 4) {
        for (int i = 0; i < 4; i++) {
            for (int j = 0; j < n; j++) {
                vector y = (x[(f + i) * width + v + j] - mean[j]) * scale[j];
                four[i][j] = y * how->weight[f + i] + how->bias[f + i];
                hidden[(f + i) * width + v + j] = four[i][j];
            }
        }
        keep(to, tile, width, f, v, four, n);
    }
}

/* All vectors, shared by the threads. */
static void layer_norm(const norm *how, long features, const columns *x, long vectors,
                       const columns *hidden, const columns *to, member *me) {
    long pieces = pieces_of(vectors, 4, me);
    for (long i = claim(me); i < pieces; i = claim_next(me)) {
        long last = part(vectors, i + 1, pieces);
        for (long at = part(vectors, i, pieces), n; at < last; at += n) {
            long tile = at / TILE, v = at % TILE, width = width_of(vectors, tile);
            const vector *from = (const vector *)tile_of(x, tile);
            vector *into = (vector *)tile_of(hidden, tile);
            integers *kept = tile_of(to, tile);
            n = least(last - at, width - v);
            if (n >= 4)
                n = 4, normalize(how, features, from, into, to, kept, width, v, 4);
            else if (n >= 2)
                n = 2, normalize(how, features, from, into, to, kept, width, v, 2);
            else
                normalize(how, features, from, into, to, kept, width, v, 1);
        }
    }
    settle(me, pieces);
}

#endif
