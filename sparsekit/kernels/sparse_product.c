/* Products with a sparse weight that take time for its nonzero numbers only; float32, on a CPU.

Activations are row-major, [tokens, width]. They are worked on in tiles: TOKENS tokens at most,
transposed, so that one entry of the weight times one feature of the tile is VECTORS products of
vectors, and the features of a block of the weight's columns stay in the first-level cache
(TOKENS * block * 4 bytes) with room for what streams past them.

Vectors are those of GCC and Clang, so the compiler maps them to what the processor has. Threads
write disjoint memory and add in a fixed order: results do not depend on their number. */

#include <stdint.h>
#include <string.h>

#define LANES 16
#define VECTORS 6
#define TOKENS (VECTORS * LANES)
/* Columns of a block, at most. */
#define BLOCK 96
/* Entries whose lanes are added up together, or a few more. */
#define FOLDED_AT_ONCE 64
/* Rows of a product whose sums, for a tile, stay in the second-level cache. */
#define CHUNK 768

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef float unaligned __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t integers __attribute__((vector_size(4 * LANES)));
typedef uint8_t bytes __attribute__((vector_size(LANES)));
typedef float tile_row[TOKENS] __attribute__((aligned(64)));

/* Compressed sparse rows of a weight [rows, width], in blocks of `block` columns. Within a block,
   each chunk of rows is sorted by how many entries they have: loops over the entries of one row
   after another then end where the processor expects it. The entries of the row order[b * rows + i]
   begin at pointers[b * (rows + 1) + i] and end at the next pointer; each has the offset, in bytes,
   of its column in a tile's block. */
typedef struct {
    long rows, width, block;
    const int32_t *pointers, *order;
    const uint16_t *offsets;
} sparse_rows;

#define VECTOR_AT(address) (*(const vector *)(address))
#define SHUFFLE __builtin_shufflevector
#define UNROLL _Pragma("GCC unroll 8")
#define SPECIALIZED static inline __attribute__((always_inline))

static long blocks_of(const sparse_rows *weight) {
    return (weight->width + weight->block - 1) / weight->block;
}

static long least(long a, long b) { return a < b ? a : b; }

static long vectors_of(long tokens) { return (tokens + LANES - 1) / LANES; }

/* How many tiles there are: an even number, so that two threads get the same work. */
long tiles_of(long tokens) {
    long vectors = vectors_of(tokens);
    return least(vectors, 2 * ((vectors + 2 * VECTORS - 1) / (2 * VECTORS)));
}

/* The first token of a tile; all have the same number of vectors, or one more. */
static long first_of(long tile, long tokens) {
    return LANES * (vectors_of(tokens) * tile / tiles_of(tokens));
}

static long count_of(long tile, long tokens) {
    return least(first_of(tile + 1, tokens), tokens) - first_of(tile, tokens);
}

/* 16 x 16 numbers, in place: four times, rows i and i + 8 are laced into one another. */
static inline void transpose(vector rows[LANES]) {
    for (int round = 0; round < 4; round++) {
        vector laced[LANES];
        for (int i = 0; i < LANES / 2; i++) {
            vector a = rows[i], b = rows[i + LANES / 2];
            laced[2 * i] = SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            laced[2 * i + 1] =
                SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        memcpy(rows, laced, sizeof laced);
    }
}

/* 16 numbers of x from `start`, the first `count` of them, the others 0. With a zero point x holds
   bytes, which become its differences from it. */
static inline vector load(const void *x, const int32_t *zero_point, long start, long count) {
    vector loaded = {0};
    if (zero_point) {
        bytes found = {0};
        memcpy(&found, (const uint8_t *)x + start, count);
        loaded = __builtin_convertvector(found, vector);
        for (int i = 0; i < count; i++)
            loaded[i] -= (float)*zero_point;
    } else
        memcpy(&loaded, (const float *)x + start, 4 * count);
    return loaded;
}

/* packed[width] from `count` tokens of x; what lacks to LANES is zero. The first token's numbers
   begin at `start`, and one token's begin `stride` after those of the one before. */
static void pack(const void *x, const int32_t *zero_point, long start, long stride, long count,
                 long width, tile_row *packed) {
    for (long t = 0; t < count; t += LANES) {
        for (long w = 0; w < width; w += LANES) {
            vector rows[LANES];
            long columns = least(LANES, width - w);
            for (int i = 0; i < LANES; i++) {
                long at = start + (t + i) * stride + w;
                if (t + i >= count)
                    rows[i] = (vector){0};
                else if (columns == LANES)
                    rows[i] = load(x, zero_point, at, LANES);
                else
                    rows[i] = load(x, zero_point, at, columns);
            }
            transpose(rows);
            for (int i = 0; i < columns; i++)
                *(vector *)(packed[w + i] + t) = rows[i];
        }
    }
}

/* `count` tokens of y from tile[width]: plus a bias, or NULL, and 0 where `kept`, or NULL, is 0. One
   token's numbers begin `stride` after those of the one before. */
static void unpack(const tile_row *tile, long count, long width, long stride, const float *bias,
                   const uint8_t *kept, float *y) {
    for (long t = 0; t < count; t += LANES) {
        for (long w = 0; w < width; w += LANES) {
            vector rows[LANES], added = {0};
            long columns = least(LANES, width - w);
            for (int i = 0; i < LANES; i++)
                rows[i] = i < columns ? VECTOR_AT(tile[w + i] + t) : (vector){0};
            transpose(rows);
            if (bias)
                memcpy(&added, bias + w, 4 * columns);
            for (int i = 0; i < least(LANES, count - t); i++) {
                rows[i] += added;
                if (kept) {
                    bytes found = {0};
                    memcpy(&found, kept + (t + i) * stride + w, columns);
                    rows[i] *= __builtin_convertvector(found, vector);
                }
                if (columns == LANES)
                    *(unaligned *)(y + (t + i) * stride + w) = rows[i];
                else
                    memcpy(y + (t + i) * stride + w, &rows[i], 4 * columns);
            }
        }
    }
}

/* out [count] = the numbers at those indices. */
void gather(const float *numbers, const int32_t *indices, long count, float *restrict out,
            int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long i = 0; i < count; i++)
        out[i] = numbers[indices[i]];
}

/* The feature of an entry, as an address: the compiler would otherwise add the offset anew for each
   vector, and a product of an indexed vector takes two steps of the processor. */
static inline const float *feature_of(const void *features, uint16_t offset) {
    const float *feature = (const float *)((const char *)features + offset);
    __asm__("" : "+r"(feature));
    return feature;
}

SPECIALIZED void add_product(vector *sums, float value, const float *feature, const int vectors) {
    UNROLL for (int v = 0; v < vectors; v++) sums[v] += value * VECTOR_AT(feature + v * LANES);
}

/* out[row - first], for the rows at `first` to `last` in the order of block b, += the block times
   its features; in the first block =. Two chains of sums hide latency. */
SPECIALIZED void multiply(const sparse_rows *weight, long b, long first, long last,
                          const float *values, const tile_row *features, tile_row *out,
                          const int vectors) {
    const int32_t *pointers = weight->pointers + b * (weight->rows + 1);
    const int32_t *order = weight->order + b * weight->rows;
    for (long i = first; i < last; i++) {
        float *sums = out[order[i] - first];
        vector even[VECTORS], odd[VECTORS];
        UNROLL for (int v = 0; v < vectors; v++) {
            even[v] = b ? VECTOR_AT(sums + v * LANES) : (vector){0};
            odd[v] = (vector){0};
        }
        const uint16_t *offset = weight->offsets + pointers[i];
        const float *value = values + pointers[i];
        int32_t count = pointers[i + 1] - pointers[i];
        if (count & 1)
            add_product(even, *value++, feature_of(features, *offset++), vectors);
        if (count & 2) {
            add_product(even, value[0], feature_of(features, offset[0]), vectors);
            add_product(odd, value[1], feature_of(features, offset[1]), vectors);
            offset += 2, value += 2;
        }
        for (count /= 4; count > 0; count--, offset += 4, value += 4) {
            add_product(even, value[0], feature_of(features, offset[0]), vectors);
            add_product(odd, value[1], feature_of(features, offset[1]), vectors);
            add_product(even, value[2], feature_of(features, offset[2]), vectors);
            add_product(odd, value[3], feature_of(features, offset[3]), vectors);
        }
        UNROLL for (int v = 0; v < vectors; v++) *(vector *)(sums + v * LANES) = even[v] + odd[v];
    }
}

/* Code for each number of vectors that a tile may have. */
#define FOR_VECTORS(vectors, function, ...)                                                        \
    switch (vectors) {                                                                             \
    case 1: function(__VA_ARGS__, 1); break;                                                       \
    case 2: function(__VA_ARGS__, 2); break;                                                       \
    case 3: function(__VA_ARGS__, 3); break;                                                       \
    case 4: function(__VA_ARGS__, 4); break;                                                       \
    case 5: function(__VA_ARGS__, 5); break;                                                       \
    default: function(__VA_ARGS__, VECTORS);                                                       \
    }

static __attribute__((noinline)) void multiply_block(const sparse_rows *weight, long b, long first,
                                                     long last, const float *values,
                                                     const tile_row *features, tile_row *out,
                                                     long tokens) {
    FOR_VECTORS(vectors_of(tokens), multiply, weight, b, first, last, values, features, out)
}

/* What block b of a tile's features holds: see pack. */
static void pack_block(const sparse_rows *weight, long b, const void *x, const int32_t *zero_point,
                       long tile, long tokens, tile_row *features) {
    long column = b * weight->block;
    pack(x, zero_point, first_of(tile, tokens) * weight->width + column, weight->width,
         count_of(tile, tokens), least(weight->block, weight->width - column), features);
}

/* y, at a tile and a chunk of rows from `first` on. */
static void multiply_tile(const sparse_rows *weight, const float *values, const float *x,
                          long tokens, long tile, long first, const float *bias,
                          const uint8_t *kept, float *y, tile_row *out) {
    long rows = weight->rows, chunk = least(CHUNK, rows - first), count = count_of(tile, tokens);
    long start = first_of(tile, tokens) * rows + first;
    tile_row features[BLOCK];
    for (long b = 0; b < blocks_of(weight); b++) {
        pack_block(weight, b, x, NULL, tile, tokens, features);
        multiply_block(weight, b, first, first + chunk, values, features, out, count);
    }
    unpack(out, count, chunk, rows, bias ? bias + first : bias, kept ? kept + start : kept,
           y + start);
}

/* y [tokens, rows] = x [tokens, width] times the weight, transposed, plus bias [rows] or NULL.
   values: one for each entry of the weight; kept [tokens, rows]: 0 where y is to be 0, 1 elsewhere,
   or NULL; scratch: `threads` times as many tile rows as a chunk has rows, at a multiple of 64
   bytes. */
void sparse_product(const sparse_rows *weight, const float *values, const float *x, long tokens,
                    const float *bias, const uint8_t *kept, float *y, tile_row *scratch,
                    int threads) {
    long rows = weight->rows, tiles = tiles_of(tokens);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int part = 0; part < threads; part++) {
        tile_row *out = scratch + part * least(rows, CHUNK);
        /* All tiles meet a chunk of the weight while it is in the second-level cache. */
        for (long first = 0; first < rows; first += CHUNK)
            for (long tile = tiles * part / threads; tile < tiles * (part + 1) / threads; tile++)
                multiply_tile(weight, values, x, tokens, tile, first, bias, kept, y, out);
    }
}

/* Sums of pairs of lanes of terms[0] and of terms[1] that are 8 apart: the first's in the lower
   half, the second's in the upper. The terms lie side by side in memory, so that one load gives
   the upper half of the first and the lower half of the second. */
static inline vector fold8(const vector terms[2]) {
    vector middle = *(const unaligned *)((const float *)terms + LANES / 2);
    return middle +
           SHUFFLE(terms[0], terms[1], 0, 1, 2, 3, 4, 5, 6, 7, 24, 25, 26, 27, 28, 29, 30, 31);
}

/* Sums of pairs of lanes of a and of b that are `step` apart: a's in the lower half of each group
   of 2 * step lanes, b's in the upper. */
static inline vector fold4(vector a, vector b) {
    return SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
           SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
}
static inline vector fold2(vector a, vector b) {
    return SHUFFLE(a, b, 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) +
           SHUFFLE(a, b, 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31);
}
static inline vector fold1(vector a, vector b) {
    return SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
           SHUFFLE(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

/* Lane i is the sum over the lanes of terms[i]. */
static inline vector fold(const vector terms[LANES]) {
    vector fours[4];
    UNROLL for (int i = 0; i < 4; i++)
        fours[i] = fold4(fold8(terms + 4 * i), fold8(terms + 4 * i + 2));
    return fold1(fold2(fours[0], fours[1]), fold2(fours[2], fours[3]));
}

/* sums[i] += the sum over the lanes of terms[i], for `count` terms of at most `room` sums. */
static inline void add_folded(const vector *terms, long count, long room, float *sums) {
    for (; count >= LANES; count -= LANES, room -= LANES, terms += LANES, sums += LANES)
        *(unaligned *)sums += fold(terms);
    vector rest = fold(terms);
    if (room < LANES)
        for (long i = 0; i < count; i++)
            sums[i] += rest[i];
    else {
        /* The others keep their value: a branch less, which would be hard to foresee. */
        const integers lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        *(unaligned *)sums += (vector)((integers)rest & (lanes < (int32_t)count));
    }
}

SPECIALIZED vector dot(const vector *errors, const float *feature, const int vectors) {
    vector sum = errors[0] * VECTOR_AT(feature);
    UNROLL for (int v = 1; v < vectors; v++) sum += errors[v] * VECTOR_AT(feature + v * LANES);
    return sum;
}

/* terms[k] = a row of errors times the feature of entry k, lane by lane, for `count` entries. */
SPECIALIZED void correlate_row(const float *row, const tile_row *features, const uint16_t *offset,
                               int32_t count, vector *terms, const int vectors) {
    vector errors[VECTORS];
    UNROLL for (int v = 0; v < vectors; v++) errors[v] = VECTOR_AT(row + v * LANES);
    if (count & 1)
        *terms++ = dot(errors, feature_of(features, *offset++), vectors);
    if (count & 2) {
        terms[0] = dot(errors, feature_of(features, offset[0]), vectors);
        terms[1] = dot(errors, feature_of(features, offset[1]), vectors);
        offset += 2, terms += 2;
    }
    for (count /= 4; count > 0; count--, offset += 4, terms += 4)
        UNROLL for (int i = 0; i < 4; i++)
            terms[i] = dot(errors, feature_of(features, offset[i]), vectors);
}

/* sums[k] += row of errors . feature, for each entry k of the rows at `first` to `last` in the order
   of block b. Lanes are added up for several rows at a time: 16 entries need 37 operations, and so
   does a rest of fewer. */
SPECIALIZED void correlate(const sparse_rows *weight, long b, long first, long last,
                           const tile_row *features, const tile_row *errors, float *sums,
                           const int vectors) {
    const int32_t *pointers = weight->pointers + b * (weight->rows + 1);
    const int32_t *order = weight->order + b * weight->rows;
    vector terms[FOLDED_AT_ONCE + BLOCK + LANES];
    int32_t begin = pointers[first], end = pointers[last];
    for (long i = first; i < last; i++) {
        int32_t entry = pointers[i], next = pointers[i + 1];
        const float *soon = errors[order[i + 2 < last ? i + 2 : i]];
        UNROLL for (int v = 0; v < vectors; v++) __builtin_prefetch(soon + v * LANES);
        correlate_row(errors[order[i]], features, weight->offsets + entry, next - entry,
                      terms + (entry - begin), vectors);
        if (next - begin >= FOLDED_AT_ONCE || i + 1 == last) {
            add_folded(terms, next - begin, end - begin, sums + begin);
            begin = next;
        }
    }
}

static __attribute__((noinline)) void correlate_block(const sparse_rows *weight, long b, long first,
                                                      long last, const tile_row *features,
                                                      const tile_row *errors, float *sums,
                                                      long tokens) {
    FOR_VECTORS(vectors_of(tokens), correlate, weight, b, first, last, features, errors, sums)
}

/* Where in a block's order the rows begin whose entries begin at `entry` or after it. */
static long cut(const int32_t *pointers, long rows, int32_t entry) {
    long low = 0, high = rows;
    while (low < high) {
        long middle = (low + high) / 2;
        if (pointers[middle] < entry)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The gradient at block b of the rows at `first` to `last` in its order, from sums and factors. */
static void place(const sparse_rows *weight, long b, long first, long last, const float *sums,
                  const float *factors, float *gradient) {
    const int32_t *pointers = weight->pointers + b * (weight->rows + 1);
    const int32_t *order = weight->order + b * weight->rows;
    long column = b * weight->block, columns = least(weight->block, weight->width - column);
    for (long i = first; i < last; i++) {
        float *piece = gradient + order[i] * weight->width + column;
        memset(piece, 0, 4 * columns);
        for (int32_t k = pointers[i]; k < pointers[i + 1]; k++)
            piece[weight->offsets[k] / sizeof(tile_row)] = factors ? sums[k] * factors[k] : sums[k];
    }
}

/* The gradient at the entries from `begin` to `end`, and 0 around them: all tiles, block by block. */
static void correlate_part(const sparse_rows *weight, const float *factors, const void *x,
                           const int32_t *zero_point, const tile_row *errors, long tokens,
                           int32_t begin, int32_t end, float *sums, float *gradient) {
    long rows = weight->rows, blocks = blocks_of(weight);
    long first[blocks], last[blocks];
    tile_row features[BLOCK];
    for (long b = 0; b < blocks; b++) {
        const int32_t *pointers = weight->pointers + b * (rows + 1);
        first[b] = cut(pointers, rows, begin);
        last[b] = cut(pointers, rows, end);
        memset(sums + pointers[first[b]], 0, 4 * (pointers[last[b]] - pointers[first[b]]));
    }
    for (long tile = 0; tile < tiles_of(tokens); tile++)
        for (long b = 0; b < blocks; b++)
            if (first[b] < last[b]) {
                pack_block(weight, b, x, zero_point, tile, tokens, features);
                correlate_block(weight, b, first[b], last[b], features, errors + tile * rows, sums,
                                count_of(tile, tokens));
            }
    for (long b = 0; b < blocks; b++)
        place(weight, b, first[b], last[b], sums, factors, gradient);
}

/* gradient [rows, width] = errors [tokens, rows], transposed, times x [tokens, width] at the
   weight's entries, and 0 elsewhere. x is float32, or, with a zero point, uint8; factors: what each
   entry's gradient is multiplied by, or NULL; packed: tiles_of(tokens) * rows tile rows of scratch,
   at a multiple of 64 bytes; sums: one number for each entry. */
void sparse_weight_gradient(const sparse_rows *weight, const float *factors, const void *x,
                            const int32_t *zero_point, const float *errors, long tokens,
                            tile_row *packed, float *sums, float *gradient, int threads) {
    long rows = weight->rows;
    int64_t entries = weight->pointers[blocks_of(weight) * (rows + 1) - 1];
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (long tile = 0; tile < tiles_of(tokens); tile++)
            pack(errors, NULL, first_of(tile, tokens) * rows, rows, count_of(tile, tokens), rows,
                 packed + tile * rows);
#pragma omp for schedule(static)
        for (int part = 0; part < threads; part++)
            /* The last part has the rows after the last entry, too. */
            correlate_part(weight, factors, x, zero_point, packed, tokens, entries * part / threads,
                           part + 1 < threads ? entries * (part + 1) / threads : entries + 1, sums,
                           gradient);
    }
}
