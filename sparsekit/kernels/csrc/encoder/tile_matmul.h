/* int8 matmuls with AMX, for weights with too few zeros to skip.

A tile of the processor has 16 rows of 64 bytes. One instruction multiplies 16 outputs x 64 inputs
of the weight, signed, by 64 inputs x 16 tokens, unsigned, and adds 16 outputs x 16 tokens to int32
sums. The layouts are those of the other kernels: the inputs of 16 tokens, PACKED by fours, are the
rows of a tile, and so are the sums of an output. */

#ifndef SPARSEKIT_ENCODER_TILE_MATMUL_H
#define SPARSEKIT_ENCODER_TILE_MATMUL_H

#include "sparse_matmul.h"
#include "vectors.h"

/* Outputs and PACKED units of a tile of the weight. */
#define TILE_ROWS 16
#define TILE_UNITS 16

#if defined __AMX_INT8__ && defined __AMX_TILE__ && LANES == 16 && defined INT8_DOT_PRODUCTS
#define INT8_TILES

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

/* sums of 16 outputs, or 32 if `rows` is 2, for one vector of tokens, or two: w times x. The weight
   is [outputs / 16][tiles][16][16 units], x [units][width], sums [outputs][width]. */
INLINE void multiply_tile_block(const int32_t *w, long tiles, const integers *x, integers *sums,
                                long width, const int rows, const int vectors) {
    const long stride = width * (long)sizeof *x;
    const int32_t *below = w + tiles * TILE_ROWS * TILE_UNITS;
    _tile_loadd(0, sums, stride);
    if (vectors > 1)
        _tile_loadd(1, sums + 1, stride);
    if (rows > 1)
        _tile_loadd(2, sums + TILE_ROWS * width, stride);
    if (rows > 1 && vectors > 1)
        _tile_loadd(3, sums + TILE_ROWS * width + 1, stride);
    for (long k = 0; k < tiles; k++, x += TILE_UNITS * width) {
        _tile_loadd(4, w + k * TILE_ROWS * TILE_UNITS, 64);
        _tile_loadd(6, x, stride);
        _tile_dpbsud(0, 4, 6);
        if (vectors > 1) {
            _tile_loadd(7, x + 1, stride);
            _tile_dpbsud(1, 4, 7);
        }
        if (rows > 1) {
            _tile_loadd(5, below + k * TILE_ROWS * TILE_UNITS, 64);
            _tile_dpbsud(2, 5, 6);
        }
        if (rows > 1 && vectors > 1)
            _tile_dpbsud(3, 5, 7);
    }
    _tile_stored(0, sums, stride);
    if (vectors > 1)
        _tile_stored(1, sums + 1, stride);
    if (rows > 1)
        _tile_stored(2, sums + TILE_ROWS * width, stride);
    if (rows > 1 && vectors > 1)
        _tile_stored(3, sums + TILE_ROWS * width + 1, stride);
}

/* sums [last - first][width] = the initial sums + all inputs of the rows times x. `first` and
   `last` are multiples of TILE_ROWS. */
static void multiply_tiles(const weight *w, long first, long last, const integers *x,
                           integers *sums, long width) {
    const long block = w->chunks * TILE_ROWS * TILE_UNITS;
    for (long r = first; r < last; r++)
        for (long v = 0; v < width; v++)
            sums[(r - first) * width + v] = w->initial_sums[r] - (integers){0};
    FINISH_STORES();
    _tile_loadconfig(&whole_tiles);
    for (long r = first; r < last; r += 2 * TILE_ROWS, sums += 2 * TILE_ROWS * width) {
        const int32_t *values = w->values + r / TILE_ROWS * block;
        int rows = r + TILE_ROWS < last ? 2 : 1;
        for (long v = 0; v < width; v += 2) {
            if (rows == 2 && v + 1 < width)
                multiply_tile_block(values, w->chunks, x + v, sums + v, width, 2, 2);
            else if (rows == 2)
                multiply_tile_block(values, w->chunks, x + v, sums + v, width, 2, 1);
            else if (v + 1 < width)
                multiply_tile_block(values, w->chunks, x + v, sums + v, width, 1, 2);
            else
                multiply_tile_block(values, w->chunks, x + v, sums + v, width, 1, 1);
        }
    }
    /* A thread that uses no tiles is switched faster. */
    _tile_release();
}
#endif

#endif
