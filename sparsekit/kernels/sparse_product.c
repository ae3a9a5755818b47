/* Products with a sparse weight that take time for its nonzero numbers only; float32, on a CPU.

Activations are row-major, [tokens, width]. They are worked on in tiles: TOKENS tokens, transposed,
so that one entry of the weight times one feature of the tile is VECTORS products of vectors, and
the features of a block of the weight's columns stay in the first-level cache (TOKENS * block * 4
bytes).

Vectors are those of GCC and Clang, so the compiler maps them to what the processor has. Threads
write disjoint memory and add in a fixed order: results do not depend on their number. */

#include <stdint.h>
#include <string.h>

#define LANES 16
#define VECTORS 4
#define TOKENS (VECTORS * LANES)

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef float unaligned __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint8_t bytes __attribute__((vector_size(LANES)));
typedef float tile_row[TOKENS] __attribute__((aligned(64)));

/* Compressed sparse rows of a weight [rows, width], in blocks of `block` columns, 256 at most: the
   entries of row r in block b begin at pointers[b * (rows + 1) + r] and end at the next pointer;
   each has its column within the block. */
typedef struct {
    long rows, width, block;
    const int32_t *pointers;
    const uint8_t *columns;
} sparse_rows;

#define VECTOR_AT(address) (*(const vector *)(address))
#define SHUFFLE __builtin_shufflevector

static long blocks_of(const sparse_rows *weight) {
    return (weight->width + weight->block - 1) / weight->block;
}

static long tiles_of(long tokens) { return (tokens + TOKENS - 1) / TOKENS; }

static long least(long a, long b) { return a < b ? a : b; }

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

/* tile[width] from `count` tokens of x, from token `first` on; what lacks to TOKENS is zero. */
static void pack(const void *x, const int32_t *zero_point, long first, long count, long width,
                 tile_row *tile) {
    for (long t = 0; t < TOKENS; t += LANES) {
        for (long w = 0; w < width; w += LANES) {
            vector rows[LANES];
            long columns = least(LANES, width - w);
            for (int i = 0; i < LANES; i++) {
                long start = (first + t + i) * width + w;
                if (t + i >= count)
                    rows[i] = (vector){0};
                else if (columns == LANES)
                    rows[i] = load(x, zero_point, start, LANES);
                else
                    rows[i] = load(x, zero_point, start, columns);
            }
            transpose(rows);
            for (int i = 0; i < columns; i++)
                *(vector *)(tile[w + i] + t) = rows[i];
        }
    }
}

/* `count` tokens of y from tile[width]: plus a bias, or NULL, and 0 where `kept`, or NULL, is 0. */
static void unpack(const tile_row *tile, long count, long width, const float *bias,
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
                    memcpy(&found, kept + (t + i) * width + w, columns);
                    rows[i] *= __builtin_convertvector(found, vector);
                }
                if (columns == LANES)
                    *(unaligned *)(y + (t + i) * width + w) = rows[i];
                else
                    memcpy(y + (t + i) * width + w, &rows[i], 4 * columns);
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

/* out[rows] += block b of the weight times the block's features; two chains hide latency. */
static void multiply_block(const sparse_rows *weight, long b, const float *values,
                           const tile_row *features, tile_row *out) {
    const int32_t *pointers = weight->pointers + b * (weight->rows + 1);
    const uint8_t *columns = weight->columns;
    features += b * weight->block;
    for (long r = 0; r < weight->rows; r++) {
        vector even[VECTORS], odd[VECTORS];
        for (int v = 0; v < VECTORS; v++) {
            even[v] = VECTOR_AT(out[r] + v * LANES);
            odd[v] = (vector){0};
        }
        int32_t k = pointers[r], end = pointers[r + 1];
        for (; k + 1 < end; k += 2) {
            const float *first = features[columns[k]], *second = features[columns[k + 1]];
            for (int v = 0; v < VECTORS; v++) {
                even[v] += values[k] * VECTOR_AT(first + v * LANES);
                odd[v] += values[k + 1] * VECTOR_AT(second + v * LANES);
            }
        }
        if (k < end) {
            const float *first = features[columns[k]];
            for (int v = 0; v < VECTORS; v++)
                even[v] += values[k] * VECTOR_AT(first + v * LANES);
        }
        for (int v = 0; v < VECTORS; v++)
            *(vector *)(out[r] + v * LANES) = even[v] + odd[v];
    }
}

/* packed [tiles][width] from x [tokens, width]; at a multiple of 64 bytes, as all tiles are. x is
   float32, or, with a zero point, uint8. */
void pack_tiles(const void *x, const int32_t *zero_point, long tokens, long width, tile_row *packed,
                int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long tile = 0; tile < tiles_of(tokens); tile++) {
        long first = tile * TOKENS, count = least(TOKENS, tokens - first);
        pack(x, zero_point, first, count, width, packed + tile * width);
    }
}

/* y [tokens, rows] = x times the weight, transposed, plus bias [rows] or NULL. x: packed tiles;
   values: one for each entry of the weight; kept [tokens, rows]: 0 where y is to be 0, 1 elsewhere,
   or NULL; scratch: threads * rows * TOKENS numbers. */
void sparse_product(const sparse_rows *weight, const float *values, const tile_row *x, long tokens,
                    const float *bias, const uint8_t *kept, float *y, tile_row *scratch,
                    int threads) {
    long width = weight->width, rows = weight->rows;
#pragma omp parallel num_threads(threads)
    {
        tile_row *out;
#pragma omp critical
        {
            out = scratch;
            scratch += rows;
        }
#pragma omp for schedule(static)
        for (long tile = 0; tile < tiles_of(tokens); tile++) {
            long first = tile * TOKENS;
            memset(out, 0, rows * sizeof *out);
            for (long b = 0; b < blocks_of(weight); b++)
                multiply_block(weight, b, values, x + tile * width, out);
            unpack(out, least(TOKENS, tokens - first), rows, bias,
                   kept ? kept + first * rows : kept, y + first * rows);
        }
    }
}

/* Sums of pairs of lanes of a and of b that are `step` apart: a's in the lower half of each group
   of 2 * step lanes, b's in the upper. */
static inline vector fold8(vector a, vector b) {
    return SHUFFLE(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
           SHUFFLE(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
}
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
    for (int i = 0; i < 4; i++)
        fours[i] = fold4(fold8(terms[4 * i], terms[4 * i + 1]),
                         fold8(terms[4 * i + 2], terms[4 * i + 3]));
    return fold1(fold2(fours[0], fours[1]), fold2(fours[2], fours[3]));
}

static inline vector dot(const vector errors[VECTORS], const float *feature) {
    vector sum = errors[0] * VECTOR_AT(feature);
    for (int v = 1; v < VECTORS; v++)
        sum += errors[v] * VECTOR_AT(feature + v * LANES);
    return sum;
}

/* sums[k] += row of errors . feature, for each entry k of block b in rows `first` to `last`. */
static void correlate_block(const sparse_rows *weight, long b, const tile_row *features,
                            const tile_row *errors, long first, long last, float *sums) {
    const int32_t *pointers = weight->pointers + b * (weight->rows + 1);
    const uint8_t *columns = weight->columns;
    features += b * weight->block;
    for (long r = first; r < last; r++) {
        vector of_row[VECTORS];
        for (int v = 0; v < VECTORS; v++)
            of_row[v] = VECTOR_AT(errors[r] + v * LANES);
        int32_t k = pointers[r], end = pointers[r + 1];
        /* 16 sums over lanes at a time take 15 folds, instead of four for each. */
        for (; k + LANES <= end; k += LANES) {
            vector products[LANES];
            for (int i = 0; i < LANES; i++)
                products[i] = dot(of_row, features[columns[k + i]]);
            *(unaligned *)(sums + k) += fold(products);
        }
        if (k < end) {
            vector products[LANES] = {0};
            for (int i = 0; i < end - k; i++)
                products[i] = dot(of_row, features[columns[k + i]]);
            vector total = fold(products);
            for (int i = 0; i < end - k; i++)
                sums[k + i] += total[i];
        }
    }
}

/* gradient [rows, width] = errors, transposed, times x at the weight's entries, and 0 elsewhere.
   x, errors: packed tiles of width and of rows; places: the index in `gradient` of each entry;
   factors: what each is multiplied by, or NULL; sums: one number for each. */
void sparse_weight_gradient(const sparse_rows *weight, const int32_t *places, const float *factors,
                            const tile_row *x, const tile_row *errors, long tokens, float *sums,
                            float *gradient, int threads) {
    long width = weight->width, rows = weight->rows, blocks = blocks_of(weight);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int part = 0; part < threads; part++) {
        long first = rows * part / threads, last = rows * (part + 1) / threads;
        for (long b = 0; b < blocks; b++) {
            const int32_t *pointers = weight->pointers + b * (rows + 1);
            memset(sums + pointers[first], 0, 4 * (pointers[last] - pointers[first]));
        }
        for (long tile = 0; tile < tiles_of(tokens); tile++)
            for (long b = 0; b < blocks; b++)
                correlate_block(weight, b, x + tile * width, errors + tile * rows, first, last,
                                sums);
        for (long r = first; r < last; r++) {
            memset(gradient + r * width, 0, 4 * width);
            for (long b = 0; b < blocks; b++) {
                const int32_t *pointers = weight->pointers + b * (rows + 1);
                for (int32_t k = pointers[r]; k < pointers[r + 1]; k++)
                    gradient[places[k]] = factors ? sums[k] * factors[k] : sums[k];
            }
        }
    }
}
