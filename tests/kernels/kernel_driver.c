/* Runs kernels of the encoder on arguments from the standard input, each a size in bytes, int64,
   and its bytes; writes the result to the standard output. For processors that tests emulate. */

#include <stdio.h>

#include "layers.h"

static void *read_argument(void) {
    int64_t size;
    if (fread(&size, sizeof size, 1, stdin) != 1)
        exit(2);
    void *data = aligned_alloc(64, (size + 127) / 64 * 64);
    if (!data || (size && fread(data, size, 1, stdin) != 1))
        exit(3);
    return data;
}

static void *allocate_zeros(long size) {
    void *data = aligned_alloc(64, (size + 127) / 64 * 64);
    if (!data)
        exit(4);
    return memset(data, 0, size);
}

/* Stores x [features][vectors] in the quantizer's format. */
static void fill(columns *to, const vector *x, long features, long vectors) {
    for (long v = 0; v < vectors; v++)
        for (long f = 0; f < features; f += 4) {
            vector four[4][GROUP];
            for (int i = 0; i < 4; i++)
                four[i][0] = x[(f + i) * vectors + v];
            store(to, tile_data(to, v / TILE), tile_width(vectors, v / TILE), f, v % TILE, four, 1);
        }
}

/* Arguments: rows, chunks, format, inputs, tokens; then the arrays of a weight and x [inputs]
   [tokens]. Result: int32 sums [rows][tokens]; tokens fill whole vectors of one tile. */
static void matmul_sums(void) {
    const int64_t *sizes = read_argument();
    const int32_t *pointers = read_argument();
    const void *indices = read_argument();
    const int32_t *values = read_argument(), *initial_sums = read_argument();
    const vector *x = read_argument();
    long rows = sizes[0], inputs = sizes[3], width = sizes[4] / LANES;
    weight w = {rows, sizes[1], sizes[2], pointers, indices, values, initial_sums, 0, 0};
    quantizer rounding = {sizes[2], 1, 1, 0, 0, 255};
    columns stored = {allocate_zeros(64 * (inputs + 4) * TILE), inputs / 4, &rounding};
    fill(&stored, x, inputs, width);
    integers *sums = allocate_zeros(rows * width * sizeof *sums);
    for (long c = 0; c < w.chunks; c++)
        multiply(&w, c, 0, rows, stored.data + c * chunk_vectors(&w, width), sums, width);
    fwrite(sums, sizeof *sums, rows * width, stdout);
}

/* Arguments: attention, sizes, the first token and the tokens of each text, masks [texts][length],
   query, key and value [3][features][tokens of all], and keys and queries of distances [features]
   [stride]. sizes: the number of texts, tokens of all, length, stride, center; without distances
   the stride is 0. Result: [features][tokens]. */
static void attention_output(void) {
    const attention *a = read_argument();
    const int64_t *sizes = read_argument(), *starts = read_argument(), *tokens = read_argument();
    const float *masks = read_argument();
    const vector *operands = read_argument();
    const float *keys = read_argument(), *queries = read_argument();
    long features = a->heads * a->features, vectors = sizes[1] / LANES;
    encoder e = {.features = 4, .attention_features = features, .intermediate_features = 4};
    integers *memory = allocate_zeros(64 * (TILE + vectors) * (16 * features + 4096));
    tensors t;
    integers *scratch = allocate_tensors(&t, &e, memory, vectors > TILE ? vectors : TILE);
    t.query = with_rounding(t.query, &a->query);
    t.key = with_rounding(t.key, &a->key);
    t.value = with_rounding(t.value, &a->value);
    fill(&t.query, operands, features, vectors);
    fill(&t.key, operands + features * vectors, features, vectors);
    fill(&t.value, operands + 2 * features * vectors, features, vectors);
    sequence sequences[TILE];
    for (long s = 0; s < sizes[0]; s++)
        sequences[s] = (sequence){starts[s] / LANES, tokens[s], s};
    score_terms terms = {.masks = masks, .length = sizes[2]};
    if (sizes[3]) {
        terms.distance_keys = keys, terms.distance_queries = queries;
        terms.distance_stride = sizes[3], terms.distance_center = sizes[4];
    }
    phase phases[1] = {0};
    worker self = {phases, 1, scratch};
    attention_heads(a, &terms, &t, vectors, vectors, sequences, sizes[0], 0, &t.context, &self);
    for (long f = 0; f < features; f++)
        for (long v = 0; v < vectors; v++)
            fwrite(token_data(&t.context, vectors, f, v * LANES), sizeof(vector), 1, stdout);
}

/* Arguments: a quantizer, features and tokens, and x [features][tokens]. Result: whether x is
   stored by `convert` as it is by the layers. */
static void converted(void) {
    const quantizer *rounding = read_argument();
    const int64_t *sizes = read_argument();
    const vector *x = read_argument();
    long features = sizes[0], vectors = sizes[1] / LANES, size = 64 * features * (TILE + vectors);
    columns floats = {allocate_zeros(size), features, &float32},
            stored = with_rounding((columns){allocate_zeros(size), features, 0}, rounding),
            expected = with_rounding((columns){allocate_zeros(size), features, 0}, rounding);
    fill(&floats, x, features, vectors);
    fill(&expected, x, features, vectors);
    phase phases[1] = {0};
    worker self = {phases, 1, 0};
    convert(&floats, features, vectors, &stored, &self);
    printf("%d", !memcmp(stored.data, expected.data, size));
}

/* Argument: x [4 * 4 * LANES]. Result: e^x, gelu(x). */
static void functions(void) {
    const int64_t *size = read_argument();
    const vector *x = read_argument();
    for (long i = 0; i < *size / LANES; i++) {
        vector y[] = {exponential(minimum(x[i], broadcast(0.0f))), gelu(x[i])};
        fwrite(y, sizeof y, 1, stdout);
    }
}

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], "units")) {
#ifdef INT8_DOT_PRODUCTS
        printf("%d lanes, int8", LANES);
#else
        printf("%d lanes", LANES);
#endif
    } else if (argc == 2 && !strcmp(argv[1], "matmul"))
        matmul_sums();
    else if (argc == 2 && !strcmp(argv[1], "attention"))
        attention_output();
    else if (argc == 2 && !strcmp(argv[1], "converted"))
        converted();
    else if (argc == 2 && !strcmp(argv[1], "functions"))
        functions();
    else
        return 1;
    return 0;
}
