/* Attention: for each head, query and key, softmax over the keys, probabilities and values.

Lanes are queries: scores[key] = sum over features of key * query, the key's number in all lanes. */

/* Scores are kept of two vectors of queries at a time: 16 KB of 128 keys. Keys, or features of
   values, are taken BLOCK at a time. */
#define QUERIES 2
#define BLOCK (4 * CHAINS)

typedef struct {
    long heads, features;
    float scale;
    quantizer query, key, probabilities, value;
} attention;

/* The number of feature f of the sequence's token t, and on from there those of the next ones. */
INLINE const float *token_at(const columns *of, long vectors, long feature, long lane) {
    long tile = lane / (TILE * LANES);
    const float *data = (const float *)tile_of(of, tile);
    return data + feature * width_of(vectors, tile) * LANES + lane % (TILE * LANES);
}

/* scores [BLOCK][n] of BLOCK keys from `lane` on. */
INLINE void score_block(const columns *query, long query_vectors, long v, const columns *key,
                        long key_vectors, long lane, long feature, long features, vector *scores,
                        const int n) {
    vector sums[BLOCK][QUERIES];
    long width = width_of(query_vectors, v / TILE), key_width = width_of(key_vectors, lane / (TILE * LANES));
    const vector *q = (const vector *)tile_of(query, v / TILE) + feature * width + v % TILE;
    const float *k = token_at(key, key_vectors, feature, lane);
    memset(sums, 0, sizeof sums);
    for (long f = 0; f < features; f++, q += width, k += key_width * LANES) {
#pragma GCC unroll 8
        for (int i = 0; i < BLOCK; i++) {
#pragma GCC unroll 2
            for (int j = 0; j < n; j++)
                sums[i][j] += k[i] * q[j];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < BLOCK; i++) {
#pragma GCC unroll 2
        for (int j = 0; j < n; j++)
            scores[i * n + j] = sums[i][j];
    }
}

/* scores [keys][n] become e^(score - largest), and `sums` [n] what these add up to. */
INLINE void softmax(vector *scores, long keys, float scale, const float *mask, vector *sums,
                    const int n) {
    vector most[QUERIES];
#pragma GCC unroll 2
    for (int j = 0; j < n; j++) {
        most[j] = all(-__builtin_inff());
        sums[j] = all(0.0f);
    }
    for (long t = 0; t < keys; t++) {
#pragma GCC unroll 2
        for (int j = 0; j < n; j++) {
            scores[t * n + j] = scores[t * n + j] * scale + mask[t];
            most[j] = larger(most[j], scores[t * n + j]);
        }
    }
    for (long t = 0; t < keys; t++) {
#pragma GCC unroll 2
        for (int j = 0; j < n; j++) {
            scores[t * n + j] = exponential(scores[t * n + j] - most[j]);
            sums[j] += scores[t * n + j];
        }
    }
}

/* out [count][n] = the sequence's values of `count` features, weighted by scores [keys][n]. */
INLINE void mix_block(const vector *scores, const columns *value, long vectors, long first_lane,
                      long keys, long feature, vector *out, const int count, const int n) {
    vector sums[BLOCK][QUERIES];
    memset(sums, 0, sizeof sums);
    for (long done = 0; done < keys; done += TILE * LANES) {
        long lane = first_lane + done, width = width_of(vectors, lane / (TILE * LANES));
        const float *values = token_at(value, vectors, feature, lane);
        const vector *weights = scores + done * n;
        long here = least(keys - done, TILE * LANES);
        for (long t = 0; t < here; t++, weights += n) {
#pragma GCC unroll 8
            for (int i = 0; i < count; i++) {
#pragma GCC unroll 2
                for (int j = 0; j < n; j++)
                    sums[i][j] += values[i * width * LANES + t] * weights[j];
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < count; i++) {
#pragma GCC unroll 2
        for (int j = 0; j < n; j++)
            out[i * n + j] = sums[i][j];
    }
}

/* One head of n vectors of queries, from v on. */
INLINE void attend(const attention *a, long head, const columns *query, long query_vectors, long v,
                   const columns *key, const columns *value, long vectors, const sequence *of,
                   const columns *to, vector *scores, const int n) {
    long feature = head * a->features, lane = of->first * LANES;
    for (long t = 0; t < of->tokens; t += BLOCK)
        score_block(query, query_vectors, v, key, vectors, lane + t, feature, a->features,
                    scores + t * n, n);
    vector sums[QUERIES];
    softmax(scores, of->tokens, a->scale, of->mask, sums, n);
#pragma GCC unroll 2
    for (int j = 0; j < n; j++)
        sums[j] = 1.0f / sums[j];
    if (a->probabilities.kind == ROUNDED) {
        for (long t = 0; t < of->tokens; t++)
            for (int j = 0; j < n; j++)
                scores[t * n + j] = rounded(scores[t * n + j] * sums[j], &a->probabilities);
        for (int j = 0; j < n; j++)
            sums[j] = all(1.0f);
    }
    integers *tile = tile_of(to, v / TILE);
    long width = width_of(query_vectors, v / TILE);
    for (long f = 0; f < a->features;) {
        vector out[BLOCK * QUERIES], four[4][GROUP];
        int count = a->features - f >= BLOCK ? BLOCK : 4;
        if (count == BLOCK)
            mix_block(scores, value, vectors, lane, of->tokens, feature + f, out, BLOCK, n);
        else
            mix_block(scores, value, vectors, lane, of->tokens, feature + f, out, 4, n);
        for (int i = 0; i < count; i += 4) {
#pragma GCC unroll 4
            for (int m = 0; m < 4; m++) {
#pragma GCC unroll 2
                for (int j = 0; j < n; j++)
                    four[m][j] = out[(i + m) * n + j] * sums[j];
            }
            keep(to, tile, width, feature + f + i, v % TILE, four, n);
        }
        f += count;
    }
}
