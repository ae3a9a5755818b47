/* Linear layers whose weights are kept without their zeros.

A weight [rows, inputs] is kept in units of 32 bits: one float32, or, where the processor multiplies
bytes (VNNI), four int8 of one output side by side. Units of zeros are left out. A chunk is UNITS
units of the inputs: of a tile they fill 48 KB, or half of that, so most of them stay in the
first-level cache while all outputs take what they need. Sums of bytes are exact; those of floats
are added in the units' order, or in that of two halves. */

#define UNITS 96
/* Outputs of a piece, whose sums are kept while the chunks go by: at most 96 KB of a tile. */
#define PANEL 192

/* The units of row r in chunk c begin at pointers[c * (rows + 1) + r] and end at the next pointer;
   each has its place within the chunk. A sum begins at starts[r], which takes the input's zero
   point out; y = sum * scales[r] + biases[r]. */
typedef struct {
    long rows, chunks, bytes;
    const int32_t *pointers;
    const uint8_t *places;
    const int32_t *values, *starts;
    const float *scales, *biases;
} weight;

enum { NONE, GELU, RELU };

/* The processor's product of bytes, four of them added to each sum; undefined where it has none. */
#ifdef __AVX512VNNI__
#define ADD_BYTES(sums, x, value) _mm512_dpbusd_epi32((__m512i)sums, (__m512i)x, (__m512i)value)
#elif defined __AVXVNNI__ && LANES == 8
#define ADD_BYTES(sums, x, value) _mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)x, (__m256i)value)
#endif

INLINE integers add_product(integers sums, integers x, integers value, const int bytes) {
#ifdef ADD_BYTES
    if (bytes)
        return (integers)ADD_BYTES(sums, x, value);
#endif
    (void)bytes;
    return (integers)((vector)sums + (vector)x * (vector)value);
}

/* sum [width] += the unit at `place` of x, [UNITS][width], times four bytes or a number. */
INLINE void add_unit(integers *sum, const integers *x, unsigned place, int32_t value,
                     const int width, const int bytes) {
    const integers *unit = (const integers *)((const char *)x + place * width * sizeof *x);
#pragma GCC unroll 8
    for (int v = 0; v < width; v++)
        sum[v] = add_product(sum[v], unit[v], value - (integers){0}, bytes);
}

/* Asks for the weights that some 15 rows later are read: at few tokens a row is done before memory
   answers. What a row takes of 90 % zeros fits in three lines. */
INLINE void fetch_ahead(const weight *w, long k) {
    __builtin_prefetch(w->places + k + 1024);
#pragma GCC unroll 3
    for (long line = 0; line < 3; line++)
        __builtin_prefetch(w->values + k + 512 + 16 * line);
}

/* sums [last - first][width] += the rows' units of a chunk times x. Two sums take turns where there
   are registers for both, so that a product need not wait for the one before. */
INLINE void multiply_chunk(const weight *w, long chunk, long first, long last, const integers *x,
                           integers *sums, const int width, const int bytes) {
    const int32_t *pointers = w->pointers + chunk * (w->rows + 1);
    for (long r = first; r < last; r++, sums += width) {
        integers sum[2][TILE];
#pragma GCC unroll 8
        for (int v = 0; v < width; v++) {
            sum[0][v] = chunk ? sums[v] : w->starts[r] - (integers){0};
            sum[1][v] = (integers){0};
        }
        long k = pointers[r], end = pointers[r + 1];
        fetch_ahead(w, k);
        for (; k + 4 <= end; k += 4) {
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
                add_unit(sum[i % CHAINS], x, w->places[k + i], w->values[k + i], width, bytes);
        }
        for (; k < end; k++)
            add_unit(sum[0], x, w->places[k], w->values[k], width, bytes);
#pragma GCC unroll 8
        for (int v = 0; v < width; v++)
            sums[v] = CHAINS == 1 ? sum[0][v]
                      : bytes     ? sum[0][v] + sum[1][v]
                                  : (integers)((vector)sum[0][v] + (vector)sum[1][v]);
    }
}

#define WIDTH(n)                                                                                   \
    case n:                                                                                        \
        w->bytes ? multiply_chunk(w, chunk, first, last, x, sums, n, 1)                            \
                 : multiply_chunk(w, chunk, first, last, x, sums, n, 0);                           \
        break;

static void multiply(const weight *w, long chunk, long first, long last, const integers *x,
                     integers *sums, long width) {
    switch (width) {
        WIDTH(1) WIDTH(2) WIDTH(3) WIDTH(4) WIDTH(5) WIDTH(6) WIDTH(7) WIDTH(8)
    }
}

/* From the sums of rows `first` to `last` to what is kept of them: scaled, plus bias, through the
   activation, plus the residual, which lies as the sums of all rows do. */
static void finish(const weight *w, long first, long last, const integers *sums, long activation,
                   const vector *residual, const columns *to, integers *tile, long row, long width) {
    for (long r = first; r < last; r += 4) {
        for (long v = 0; v < width; v++) {
            vector y[4];
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                integers sum = sums[(r - first + i) * width + v];
                y[i] = (w->bytes ? as_floats(sum) : (vector)sum) * w->scales[r + i] +
                       w->biases[r + i];
                if (activation == GELU)
                    y[i] = gelu(y[i]);
                if (activation == RELU)
                    y[i] = larger(y[i], all(0.0f));
                if (residual)
                    y[i] += residual[(r + i) * width + v];
            }
            keep(to, tile, width, r - row, v, y);
        }
    }
}

/* to = rows `row` to `row + rows` of a Linear layer on `vectors` vectors of x: piece i of `pieces`.
   Rows are multiples of four. */
static void linear(const weight *w, long row, long rows, const columns *x, long vectors,
                   long activation, const columns *residual, const columns *to, integers *sums,
                   long i, long pieces) {
    long first = row + 4 * part(rows / 4, i, pieces), last = row + 4 * part(rows / 4, i + 1, pieces);
    for (long tile = 0; tile * TILE < vectors; tile++) {
        long width = width_of(vectors, tile);
        const integers *input = tile_of(x, tile);
        for (long chunk = 0; chunk < w->chunks; chunk++)
            multiply(w, chunk, first, last, input + chunk * UNITS * width, sums, width);
        finish(w, first, last, sums, activation,
               residual ? (const vector *)tile_of(residual, tile) : 0, to, tile_of(to, tile), row,
               width);
    }
}

/* All rows of a Linear layer, shared by the threads. */
static void linear_layer(const weight *w, const columns *x, long vectors, long activation,
                         const columns *residual, const columns *to, member *me) {
    long pieces = pieces_of(w->rows / 4, PANEL / 4, me);
    for (long i = claim(me); i < pieces; i = claim_next(me))
        linear(w, 0, w->rows, x, vectors, activation, residual, to, me->scratch, i, pieces);
    settle(me, pieces);
}
