/* int8 matmuls with AMX.

A tile of the processor has 16 rows of 64 bytes. One instruction multiplies 16 outputs x 64 inputs
of the weight, signed, by 64 inputs x 16 tokens, unsigned, and adds 16 outputs x 16 tokens to int32
sums. The layouts are those of the other kernels: the inputs of 16 tokens, PACKED by fours, are the
rows of a tile, and so are the sums of an output.

The unit multiplies zeros as fast as other values. With MASKED_TILES they are left out in memory
alone, which the weights of most models come from at every call: a mask says where in a row its
values belong, and one instruction puts them there. That happens for the next tiles while those of
now are multiplied, which leaves the vector units idle. */

#ifndef SPARSEKIT_ENCODER_TILE_MATMUL_H
#define SPARSEKIT_ENCODER_TILE_MATMUL_H

#include "sparse_matmul.h"
#include "vectors.h"

/* Outputs and PACKED units of a tile of the weight. */
#define TILE_ROWS 16
#define TILE_UNITS 16
/* The outputs that are multiplied together, in two tiles, where there are so many. */
#define BLOCK_ROWS 32
/* The tiles of a row of MASKED_TILES that are multiplied at a time: with 32 outputs 24 KB, so that
   both they and the next ones fit into the L1 cache. */
#define TILE_CHUNK 12

#if defined __AMX_TILE__ && defined __AMX_INT8__ && defined __AMX_BF16__ &&                        \
    defined __AVX512VBMI2__ && defined INT8_DOT_PRODUCTS && LANES == 16
#define HAS_AMX

#include <sys/syscall.h>
#include <unistd.h>

/* Asks the kernel to save the tiles of this process's threads, without which the first instruction
   that uses one ends the process; see Documentation/arch/x86/xstate.rst of Linux. */
INLINE int allow_tiles(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

/* What the processor reads before it uses tiles. */
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;

/* Eight tiles of whole size. */
static const tile_config whole_tiles = {.palette = 1,
                                        .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
                                        .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

/* GCC's intrinsics do not tell the compiler that a load reads memory. */
#define FINISH_STORES() __asm__ volatile("" ::: "memory")

/* Rows of tiles that are still to be expanded: their masks and values, and where they belong. */
typedef struct {
    const uint64_t *masks;
    const uint8_t *values;
    integers *rows;
    long count;
} expansion;

/* Expands n rows. Reads up to 63 bytes behind the last value. */
INLINE void expand_rows(expansion *e, const int n) {
#pragma GCC unroll 16
    for (int i = 0; i < n; i++) {
        e->rows[i] = (integers)_mm512_maskz_expand_epi8(e->masks[i], _mm512_loadu_si512(e->values));
        e->values += __builtin_popcountll(e->masks[i]);
    }
    e->masks += n;
    e->rows += n;
    e->count -= n;
}

/* The tiles of a block of outputs: those of 16 of them and of the next 16 lie `below` vectors
   apart, those of the next inputs `step`. */
typedef struct {
    const integers *data;
    long count, below, step;
} tiles;

/* sums [outputs][width], of 16 outputs, or 32 if `rows` is 2, for one vector of tokens, or two:
   `from`, plus the tiles times x [units][width]. from: [outputs], the same for all tokens, or with
   `go_on` the sums themselves. `ahead` rows of `next` are expanded with each step. */
INLINE void multiply_tile_block(tiles w, const integers *x, const integers *from, integers *sums,
                                long width, expansion *next, const int ahead, const int go_on,
                                const int rows, const int vectors) {
    const long stride = width * (long)sizeof *x;
    const long from_stride = go_on ? stride : (long)sizeof *x;
    const long from_below = TILE_ROWS * (go_on ? width : 1), from_second = go_on ? 1 : 0;
    _tile_loadd(0, from, from_stride);
    if (vectors > 1)
        _tile_loadd(1, from + from_second, from_stride);
    if (rows > 1)
        _tile_loadd(2, from + from_below, from_stride);
    if (rows > 1 && vectors > 1)
        _tile_loadd(3, from + from_below + from_second, from_stride);
    for (long k = 0; k < w.count; k++, w.data += w.step, x += TILE_UNITS * width) {
        _tile_loadd(4, w.data, 64);
        _tile_loadd(6, x, stride);
        _tile_dpbsud(0, 4, 6);
        if (vectors > 1) {
            _tile_loadd(7, x + 1, stride);
            _tile_dpbsud(1, 4, 7);
        }
        if (rows > 1) {
            _tile_loadd(5, w.data + w.below, 64);
            _tile_dpbsud(2, 5, 6);
        }
        if (rows > 1 && vectors > 1)
            _tile_dpbsud(3, 5, 7);
        if (ahead && next->count)
            expand_rows(next, ahead);
    }
    _tile_stored(0, sums, stride);
    if (vectors > 1)
        _tile_stored(1, sums + 1, stride);
    if (rows > 1)
        _tile_stored(2, sums + TILE_ROWS * width, stride);
    if (rows > 1 && vectors > 1)
        _tile_stored(3, sums + TILE_ROWS * width + 1, stride);
}

/* As multiply_tile_block, for all vectors. */
INLINE void multiply_tile_rows(tiles w, const integers *x, const integers *initial, integers *sums,
                               long width, expansion *next, const int ahead, const int go_on,
                               const int rows) {
    for (long v = 0; v < width; v += 2) {
        const integers *from = go_on ? sums + v : initial;
        if (v + 1 < width)
            multiply_tile_block(w, x + v, from, sums + v, width, next, ahead, go_on, rows, 2);
        else
            multiply_tile_block(w, x + v, from, sums + v, width, next, ahead, go_on, rows, 1);
    }
}

/* from [rows] = the initial sums of the rows from r on. */
INLINE void broadcast_initial_sums(const weight *w, long r, long rows, integers *from) {
    for (long i = 0; i < rows; i++)
        from[i] = w->initial_sums[r + i] - (integers){0};
    FINISH_STORES();
}

/* sums [last - first][width] = the initial sums + all inputs of the rows times x. `first` and
   `last` are multiples of TILE_ROWS. The weight is [outputs / 16][tiles][16][16 units]. */
static void multiply_tiles(const weight *w, long first, long last, const integers *x,
                           integers *sums, long width) {
    const long block = w->chunks * TILE_ROWS;
    integers initial[BLOCK_ROWS];
    _tile_loadconfig(&whole_tiles);
    for (long r = first; r < last; r += BLOCK_ROWS, sums += BLOCK_ROWS * width) {
        tiles rows = {(const integers *)w->values + r / TILE_ROWS * block, w->chunks, block,
                      TILE_ROWS};
        if (r + TILE_ROWS < last) {
            broadcast_initial_sums(w, r, BLOCK_ROWS, initial);
            multiply_tile_rows(rows, x, initial, sums, width, 0, 0, 0, 2);
        } else {
            broadcast_initial_sums(w, r, TILE_ROWS, initial);
            multiply_tile_rows(rows, x, initial, sums, width, 0, 0, 0, 1);
        }
    }
    /* A thread that uses no tiles is switched faster. */
    _tile_release();
}

/* As multiply_tile_rows; expands all of `next`. */
INLINE void multiply_and_expand(tiles w, const integers *x, const integers *initial, integers *sums,
                                long width, expansion *next, const int go_on) {
    /* With four pairs of vectors, a quarter of a step's rows with each of them. */
    if (width > 6)
        multiply_tile_rows(w, x, initial, sums, width, next, BLOCK_ROWS / 4, go_on, 2);
    else
        multiply_tile_rows(w, x, initial, sums, width, next, BLOCK_ROWS / 2, go_on, 2);
    while (next->count)
        expand_rows(next, BLOCK_ROWS / 4);
}

/* As multiply_tiles, for multiples of BLOCK_ROWS. The masks are [outputs / 32][tiles][2][16], and
   so are the values; those of 32 outputs begin at their pointer. */
static void multiply_masked_tiles(const weight *w, long first, long last, const integers *x,
                                  integers *sums, long width) {
    if (first == last)
        return;
    integers expanded[2][TILE_CHUNK * BLOCK_ROWS], initial[BLOCK_ROWS];
    const long block = first / BLOCK_ROWS;
    const long chunks = (w->chunks + TILE_CHUNK - 1) / TILE_CHUNK;
    expansion next = {(const uint64_t *)w->indices + block * w->chunks * BLOCK_ROWS,
                      (const uint8_t *)w->values + w->pointers[block], expanded[0],
                      min_long(w->chunks, TILE_CHUNK) * BLOCK_ROWS};
    _tile_loadconfig(&whole_tiles);
    while (next.count)
        expand_rows(&next, BLOCK_ROWS / 4);
    long buffer = 0;
    for (long r = first; r < last; r += BLOCK_ROWS, sums += BLOCK_ROWS * width) {
        broadcast_initial_sums(w, r, BLOCK_ROWS, initial);
        for (long c = 0; c < chunks; c++, buffer ^= 1) {
            long k = c * TILE_CHUNK, following = c + 1 < chunks ? k + TILE_CHUNK : 0;
            tiles rows = {expanded[buffer], min_long(w->chunks - k, TILE_CHUNK), TILE_ROWS,
                          BLOCK_ROWS};
            next.rows = expanded[buffer ^ 1];
            if (following || r + BLOCK_ROWS < last)
                next.count = min_long(w->chunks - following, TILE_CHUNK) * BLOCK_ROWS;
            FINISH_STORES();
            const integers *inputs = x + k * TILE_UNITS * width;
            if (c)
                multiply_and_expand(rows, inputs, initial, sums, width, &next, 1);
            else
                multiply_and_expand(rows, inputs, initial, sums, width, &next, 0);
        }
    }
    _tile_release();
}
#endif

#endif
