/* The encoder for WebAssembly: one thread, one text at a time, weights packed where they are
 * loaded.
 */

#include <stdlib.h>

#include "encoder/encoder.c"

#define EXPORTED(name) __attribute__((export_name(#name)))

/* The caller alone. */
static pool caller;

/* Memory for vectors; NULL where there is none left. */
EXPORTED(allocate) void *allocate_memory(long bytes) {
    return aligned_alloc(64, (bytes + 127) / 64 * 64);
}

EXPORTED(release) void release_memory(void *memory) { free(memory); }

INLINE int is_set(const uint8_t *mask, long i) { return mask[i / 8] >> i % 8 & 1; }

/* Sets pointers [chunks][rows + 1] of w from its mask, and returns the number of steps or units. */
static long count_steps(const weight *w, const uint8_t *mask, long inputs, long chunk_size,
                        long step_size, int32_t *pointers) {
    long count = 0;
    for (long chunk = 0; chunk < w->chunks; chunk++) {
        int32_t *ends = pointers + chunk * (w->rows + 1);
        long first = chunk * chunk_size, last = min_long(first + chunk_size, inputs);
        ends[0] = count;
        for (long r = 0; r < w->rows; r++) {
            long nonzeros = 0;
            for (long i = first; i < last; i++)
                nonzeros += is_set(mask, r * inputs + i);
            count += (nonzeros + step_size - 1) / step_size;
            ends[r + 1] = count;
        }
    }
    return count;
}

/* Stores the nonzero values, which follow each other row by row, as steps of four int8. */
static void store_steps(const weight *w, const uint8_t *mask, const int8_t *nonzeros, long inputs,
                        uint16_t *indices, int8_t *values) {
    for (long r = 0; r < w->rows; r++)
        for (long chunk = 0; chunk < w->chunks; chunk++) {
            long first = chunk * CHUNK_INPUTS, last = min_long(first + CHUNK_INPUTS, inputs);
            long k = 4 * w->pointers[chunk * (w->rows + 1) + r];
            for (long i = first; i < last; i++)
                if (is_set(mask, r * inputs + i)) {
                    indices[k] = i - first;
                    values[k++] = *nonzeros++;
                }
            for (; k % 4; k++)
                indices[k] = values[k] = 0;
        }
}

/* The same, as units of one float32. */
static void store_units(const weight *w, const uint8_t *mask, const int32_t *nonzeros, long inputs,
                        uint8_t *indices, int32_t *values) {
    for (long r = 0; r < w->rows; r++)
        for (long chunk = 0; chunk < w->chunks; chunk++) {
            long first = chunk * CHUNK_UNITS, last = min_long(first + CHUNK_UNITS, inputs);
            long k = w->pointers[chunk * (w->rows + 1) + r];
            for (long i = first; i < last; i++)
                if (is_set(mask, r * inputs + i)) {
                    indices[k] = i - first;
                    values[k++] = *nonzeros++;
                }
        }
}

/* Packs a weight [rows][inputs] with the rows and the format, PLANES or FLOAT32, that w has. mask:
   a bit for each value, the lowest of a byte first, set where it is not zero; nonzeros: those
   values, int8 or float32. Returns the number of steps or units, or -1 where memory is short. */
EXPORTED(pack_weight)
long pack_weight(weight *w, const uint8_t *mask, const void *nonzeros, long inputs) {
    int planes = w->format == PLANES;
    long chunk_size = planes ? CHUNK_INPUTS : CHUNK_UNITS;
    w->chunks = inputs ? (inputs + chunk_size - 1) / chunk_size : 1;
    int32_t *pointers = allocate_memory(w->chunks * (w->rows + 1) * sizeof *pointers);
    if (!pointers)
        return -1;
    long count = count_steps(w, mask, inputs, chunk_size, planes ? 4 : 1, pointers);
    void *indices = allocate_memory(count * (planes ? 4 * sizeof(uint16_t) : 1));
    int32_t *values = allocate_memory(count * sizeof *values);
    if (!indices || !values) {
        free(pointers), free(indices), free(values);
        return -1;
    }
    w->pointers = pointers;
    w->indices = indices;
    w->values = values;
    if (planes)
        store_steps(w, mask, nonzeros, inputs, indices, (int8_t *)values);
    else
        store_units(w, mask, nonzeros, inputs, indices, values);
    return count;
}

/* The bytes of memory that encode_text needs for a text of `length` tokens. */
EXPORTED(workspace_bytes) long workspace_bytes(const encoder *e, long length) {
    return workspace_vectors(e, length, &caller) * (long)sizeof(integers);
}

/* y [features]: the last layer's output for the first token of a text. */
EXPORTED(encode_text)
void encode_text(const encoder *e, const embedding *embeddings, long length,
                 const score_terms *terms, float *y, integers *workspace) {
    encode(e, embeddings, 1, &length, terms, y, workspace, &caller);
}
