/* LayerNorm, and the embeddings that the encoder begins with. */

typedef struct {
    const float *weight, *bias;
    float epsilon;
} norm;

/* Rows [.., features] of numbers that (row - zero_point) * scale stands for; ids [batch, length]. */
typedef struct {
    enum { FLOATS, UNSIGNED, SIGNED } kind;
    float scale, zero_point;
    const void *rows;
    const int64_t *ids;
} table;

/* The sum of rows of tables, normalized if `after.weight` is there. */
typedef struct {
    long tables, length;
    table table[4];
    norm after;
} embedding;

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

/* The features of token `at` of [batch, length], to row [features]. */
static void embed_token(const embedding *from, long features, long at, float *row) {
    for (long i = 0; i < from->tables; i++) {
        const table *t = &from->table[i];
        int64_t start = (t->ids ? t->ids[at] : at) * features;
        const float *floats = (const float *)t->rows + start;
        const uint8_t *bytes = (const uint8_t *)t->rows + start;
        for (long f = 0; f < features; f++) {
            float x = t->kind == FLOATS     ? floats[f]
                      : t->kind == UNSIGNED ? (bytes[f] - t->zero_point) * t->scale
                                            : ((int8_t)bytes[f] - t->zero_point) * t->scale;
            row[f] = i ? row[f] + x : x;
        }
    }
}

/* Vector i of a sequence; lanes without one become 0. `at`: the sequence's first token
   in [batch, length]; rows: [LANES][features] of scratch. */
static void embed(const embedding *from, long features, long at, const sequence *of, long i,
                  long vectors, const columns *hidden, const columns *to, float *rows) {
    long tile = (of->first + i) / TILE, v = (of->first + i) % TILE, width = width_of(vectors, tile);
    vector *into = (vector *)tile_of(hidden, tile);
    memset(rows, 0, LANES * features * sizeof *rows);
    for (long t = 0; t < least(LANES, of->tokens - i * LANES); t++)
        embed_token(from, features, at + i * LANES + t, rows + t * features);
    for (long f = 0; f < features; f++)
        for (int t = 0; t < LANES; t++)
            into[f * width + v][t] = rows[t * features + f];
    if (from->after.weight) {
        normalize(&from->after, features, into, into, to, tile_of(to, tile), width, v, 1);
        return;
    }
    for (long f = 0; f < features; f += 4) {
        vector four[4][GROUP];
        for (int m = 0; m < 4; m++)
            four[m][0] = into[(f + m) * width + v];
        keep(to, tile_of(to, tile), width, f, v, four, 1);
    }
}
