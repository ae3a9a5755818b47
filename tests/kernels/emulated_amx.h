/* The intrinsics of AVX-512, VNNI and AMX that the encoder uses in plain C, for processors without
   them: to be included before the sources, as `cc -include emulated_amx.h` does.

   Those of AMX check what the processor would raise an exception for. */

#ifndef EMULATED_AMX_H
#define EMULATED_AMX_H

#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#undef _mm512_loadu_si512
#undef _mm512_mask_storeu_epi32
#undef _mm512_maskz_expand_epi8
#undef _tile_loadconfig
#undef _tile_release
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#undef _tile_dpbsud
#undef _tile_zero

static __thread struct {
    int configured;
    uint8_t rows[8];
    uint16_t row_bytes[8];
    uint8_t data[8][16][64];
} emulated_tiles;

static __attribute__((noinline)) void emulated_load_config(const void *config) {
    const uint8_t *bytes = config;
    if (bytes[0] != 1 || bytes[1] != 0)
        abort();
    memset(&emulated_tiles, 0, sizeof emulated_tiles);
    memcpy(emulated_tiles.row_bytes, bytes + 16, sizeof emulated_tiles.row_bytes);
    memcpy(emulated_tiles.rows, bytes + 48, sizeof emulated_tiles.rows);
    for (int i = 0; i < 8; i++)
        if (emulated_tiles.rows[i] > 16 || emulated_tiles.row_bytes[i] > 64)
            abort();
    emulated_tiles.configured = 1;
}

static __attribute__((noinline)) void emulated_release(void) {
    memset(&emulated_tiles, 0, sizeof emulated_tiles);
}

static __attribute__((noinline)) void emulated_zero(int tile) {
    if (!emulated_tiles.configured)
        abort();
    memset(emulated_tiles.data[tile], 0, sizeof emulated_tiles.data[tile]);
}

static __attribute__((noinline)) void emulated_load(int tile, const void *from, long stride) {
    if (!emulated_tiles.configured)
        abort();
    for (int row = 0; row < emulated_tiles.rows[tile]; row++)
        memcpy(emulated_tiles.data[tile][row], (const char *)from + row * stride,
               emulated_tiles.row_bytes[tile]);
}

static __attribute__((noinline)) void emulated_store(int tile, void *to, long stride) {
    if (!emulated_tiles.configured)
        abort();
    for (int row = 0; row < emulated_tiles.rows[tile]; row++)
        memcpy((char *)to + row * stride, emulated_tiles.data[tile][row],
               emulated_tiles.row_bytes[tile]);
}

/* Signed bytes of `left` times unsigned ones of `right`, four at a time. */
static __attribute__((noinline)) void emulated_multiply(int sums, int left, int right) {
    const uint16_t *row_bytes = emulated_tiles.row_bytes;
    const uint8_t *rows = emulated_tiles.rows;
    if (!emulated_tiles.configured || rows[sums] != rows[left] ||
        row_bytes[sums] != row_bytes[right] || row_bytes[left] != 4 * rows[right])
        abort();
    for (int m = 0; m < emulated_tiles.rows[sums]; m++) {
        for (int n = 0; n < emulated_tiles.row_bytes[sums] / 4; n++) {
            int32_t sum;
            memcpy(&sum, emulated_tiles.data[sums][m] + 4 * n, 4);
            for (int k = 0; k < emulated_tiles.row_bytes[left]; k++)
                sum += (int8_t)emulated_tiles.data[left][m][k] *
                       emulated_tiles.data[right][k / 4][4 * n + k % 4];
            memcpy(emulated_tiles.data[sums][m] + 4 * n, &sum, 4);
        }
    }
}

/* A bf16 number, of which the processor takes denormal ones for 0. */
static float emulated_bf16(const uint8_t *from) {
    uint32_t bits = (uint32_t)(from[0] | from[1] << 8) << 16;
    float x;
    if (!(bits & 0x7f800000))
        bits &= 0x80000000;
    memcpy(&x, &bits, 4);
    return x;
}

/* bf16 numbers of `left` times those of `right`, two at a time, whose sums are added at the end. */
static __attribute__((noinline)) void emulated_multiply_bf16(int sums, int left, int right) {
    const uint16_t *row_bytes = emulated_tiles.row_bytes;
    const uint8_t *rows = emulated_tiles.rows;
    if (!emulated_tiles.configured || rows[sums] != rows[left] ||
        row_bytes[sums] != row_bytes[right] || row_bytes[left] != 4 * rows[right])
        abort();
    for (int m = 0; m < rows[sums]; m++) {
        for (int n = 0; n < row_bytes[sums] / 4; n++) {
            float sum, halves[2] = {0};
            memcpy(&sum, emulated_tiles.data[sums][m] + 4 * n, 4);
            for (int k = 0; k < row_bytes[left] / 2; k++)
                halves[k % 2] = __builtin_fmaf(
                    emulated_bf16(emulated_tiles.data[left][m] + 2 * k),
                    emulated_bf16(emulated_tiles.data[right][k / 2] + 4 * n + 2 * (k % 2)),
                    halves[k % 2]);
            sum += halves[0] + halves[1];
            memcpy(emulated_tiles.data[sums][m] + 4 * n, &sum, 4);
        }
    }
}

#define _tile_loadconfig(config) emulated_load_config(config)
#define _tile_release() emulated_release()
#define _tile_zero(tile) emulated_zero(tile)
#define _tile_loadd(tile, from, stride) emulated_load(tile, from, stride)
#define _tile_stored(tile, to, stride) emulated_store(tile, to, stride)
#define _tile_dpbsud(sums, left, right) emulated_multiply(sums, left, right)
#define _tile_dpbf16ps(sums, left, right) emulated_multiply_bf16(sums, left, right)
/* The request for tiles. */
#define syscall(...) 0L

typedef int32_t lanes_of_int32[16];
typedef float lanes_of_float[16];

static __attribute__((noinline)) __m512i emulated_dpbusd(__m512i sums, __m512i x, __m512i values) {
    lanes_of_int32 sum;
    uint8_t unsigned_bytes[64];
    int8_t signed_bytes[64];
    memcpy(sum, &sums, 64);
    memcpy(unsigned_bytes, &x, 64);
    memcpy(signed_bytes, &values, 64);
    for (int i = 0; i < 64; i++)
        sum[i / 4] += unsigned_bytes[i] * signed_bytes[i];
    memcpy(&sums, sum, 64);
    return sums;
}

/* Elements of `size` bytes of a half, 0 or 1, of each 128 bits of a and b in turns. */
static __attribute__((noinline)) __m512i emulated_unpack(__m512i a, __m512i b, int half, int size) {
    uint8_t from[2][64], to[64];
    memcpy(from[0], &a, 64);
    memcpy(from[1], &b, 64);
    for (int i = 0; i < 64; i++) {
        int element = i % 16 / size;
        to[i] = from[element % 2][i / 16 * 16 + 8 * half + element / 2 * size + i % size];
    }
    memcpy(&a, to, 64);
    return a;
}

/* Two of the 128 bits of a, then two of b, each chosen by two bits of `order`. */
static __attribute__((noinline)) __m512i emulated_shuffle(__m512i a, __m512i b, int order) {
    uint8_t from[2][64], to[64];
    memcpy(from[0], &a, 64);
    memcpy(from[1], &b, 64);
    for (int i = 0; i < 4; i++)
        memcpy(to + 16 * i, from[i / 2] + 16 * (order >> 2 * i & 3), 16);
    memcpy(&a, to, 64);
    return a;
}

static __attribute__((noinline)) __m512i emulated_packus32(__m512i a, __m512i b) {
    int32_t from[2][16];
    uint16_t to[32];
    memcpy(from[0], &a, 64);
    memcpy(from[1], &b, 64);
    for (int i = 0; i < 32; i++) {
        int32_t value = from[i % 8 / 4][i / 8 * 4 + i % 4];
        to[i] = value < 0 ? 0 : value > UINT16_MAX ? UINT16_MAX : value;
    }
    memcpy(&a, to, 64);
    return a;
}

static __attribute__((noinline)) __m512i emulated_packus16(__m512i a, __m512i b) {
    int16_t from[2][32];
    uint8_t to[64];
    memcpy(from[0], &a, 64);
    memcpy(from[1], &b, 64);
    for (int i = 0; i < 64; i++) {
        int16_t value = from[i % 16 / 8][i / 16 * 8 + i % 8];
        to[i] = value < 0 ? 0 : value > UINT8_MAX ? UINT8_MAX : value;
    }
    memcpy(&a, to, 64);
    return a;
}

static __attribute__((noinline)) void emulated_mask_store(void *to, unsigned mask, __m512i values) {
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1)
            memcpy((char *)to + 4 * i, (char *)&values + 4 * i, 4);
}

static __attribute__((noinline)) __m512i emulated_load_vector(const void *from) {
    __m512i values;
    memcpy(&values, from, 64);
    return values;
}

/* The first bytes where the mask has bits, zeros elsewhere. */
static __attribute__((noinline)) __m512i emulated_expand(uint64_t mask, __m512i values) {
    uint8_t from[64], to[64];
    memcpy(from, &values, 64);
    for (int i = 0, next = 0; i < 64; i++)
        to[i] = mask >> i & 1 ? from[next++] : 0;
    memcpy(&values, to, 64);
    return values;
}

/* The second operand where they are equal or one is not a number, as the processor does. */
static __attribute__((noinline)) __m512 emulated_choice(__m512 a, __m512 b, int larger) {
    lanes_of_float left, right;
    memcpy(left, &a, 64);
    memcpy(right, &b, 64);
    for (int i = 0; i < 16; i++)
        left[i] = (larger ? left[i] > right[i] : left[i] < right[i]) ? left[i] : right[i];
    memcpy(&a, left, 64);
    return a;
}

static __attribute__((noinline)) __m512 emulated_fmadd(__m512 x, __m512 y, __m512 sums) {
    lanes_of_float left, right, sum;
    memcpy(left, &x, 64);
    memcpy(right, &y, 64);
    memcpy(sum, &sums, 64);
    for (int i = 0; i < 16; i++)
        sum[i] = __builtin_fmaf(left[i], right[i], sum[i]);
    memcpy(&sums, sum, 64);
    return sums;
}

#define _mm512_fmadd_ps(x, y, sum) emulated_fmadd(x, y, sum)
#define _mm512_dpbusd_epi32(sums, x, values) emulated_dpbusd(sums, x, values)
#define _mm512_unpacklo_epi8(a, b) emulated_unpack(a, b, 0, 1)
#define _mm512_unpackhi_epi8(a, b) emulated_unpack(a, b, 1, 1)
#define _mm512_unpacklo_epi16(a, b) emulated_unpack(a, b, 0, 2)
#define _mm512_unpackhi_epi16(a, b) emulated_unpack(a, b, 1, 2)
#define _mm512_unpacklo_epi32(a, b) emulated_unpack(a, b, 0, 4)
#define _mm512_unpackhi_epi32(a, b) emulated_unpack(a, b, 1, 4)
#define _mm512_unpacklo_epi64(a, b) emulated_unpack(a, b, 0, 8)
#define _mm512_unpackhi_epi64(a, b) emulated_unpack(a, b, 1, 8)
#undef _mm512_shuffle_i32x4
#define _mm512_shuffle_i32x4(a, b, order) emulated_shuffle(a, b, order)
#define _mm512_packus_epi32(a, b) emulated_packus32(a, b)
#define _mm512_packus_epi16(a, b) emulated_packus16(a, b)
#define _mm512_loadu_si512(from) emulated_load_vector(from)
#define _mm512_maskz_expand_epi8(mask, values) emulated_expand(mask, values)
#define _mm512_mask_storeu_epi32(to, mask, values) emulated_mask_store(to, mask, values)
#define _mm512_min_ps(a, b) emulated_choice(a, b, 0)
#define _mm512_max_ps(a, b) emulated_choice(a, b, 1)

#ifndef __AVX512F__
#define __AVX512F__ 1
#endif
#ifndef __AVX512BW__
#define __AVX512BW__ 1
#endif
#ifndef __AVX512VNNI__
#define __AVX512VNNI__ 1
#endif
#ifndef __AVX512VBMI2__
#define __AVX512VBMI2__ 1
#endif
#define __AMX_TILE__ 1
#define __AMX_INT8__ 1
#define __AMX_BF16__ 1
/* A vector does not fit into a register. */
#define VECTOR_REGISTER "m"

#endif
