/* Rotary position embeddings (RoFormer, arXiv:2104.09864), with the halves of a head as pairs. */

#ifndef SPARSEKIT_ENCODER_ROTARY_H
#define SPARSEKIT_ENCODER_ROTARY_H

#include "phases.h"
#include "score_terms.h"
#include "tensors.h"
#include "vectors.h"

/* Rotates vector v of a tensor [features][vectors], whose tokens begin at position `first`, in
   place, for `features` features from `feature` on; quantized as ROUNDED if `rounding` is. */
static void rotate_vector(const score_terms *terms, const columns *x, const quantizer *rounding,
                          long feature, long features, long vectors, long v, long first) {
    long width = tile_width(vectors, v / TILE), half = features / 2;
    vector *data = (vector *)tile_data(x, v / TILE) + feature * width + v % TILE;
    for (long f = 0; f < half; f++) {
        vector a = data[f * width], b = data[(f + half) * width];
        const float *cosine = terms->cosines + f * terms->padded + first,
                    *sine = terms->sines + f * terms->padded + first;
        long second = half * terms->padded;
        vector y = multiply_add_floats(a, load(cosine), -(b * load(sine))),
               z = multiply_add_floats(b, load(cosine + second), a * load(sine + second));
        data[f * width] = rounding->format == FLOAT32 ? y : fake_quantize(y, rounding);
        data[(f + half) * width] = rounding->format == FLOAT32 ? z : fake_quantize(z, rounding);
    }
}

/* Rotates all heads of a tensor, or with first_only those of one vector for each sequence. */
static void rotate(const score_terms *terms, const columns *x, const quantizer *rounding,
                   long heads, long features, long vectors, const sequence *sequences, long count,
                   int first_only, worker *self) {
    for (long head = claim_piece(self); head < heads; head = complete_and_claim(self))
        for (long s = 0; s < count; s++)
            for (long i = 0; i < (first_only ? 1 : vector_count(sequences + s)); i++)
                rotate_vector(terms, x, rounding, head * features, features, vectors,
                              first_only ? s : sequences[s].first + i, i * LANES);
    finish_phase(self, heads);
}

#endif
