/* What quantization-aware training does with each number, in one pass over memory; on a CPU.

The loops are written so that compilers turn them into vectors. Compiled without contraction of
products and sums, they give torch's own results to the bit. */

#include <math.h>
#include <stdint.h>

/* out [rows, width] = values * inverse + zero point, rounded half to even and clamped, as bytes;
   inside: 1 where nothing was clamped. inverse: one reciprocal scale, or one a row; zero_point may
   be NULL for 0. A negative number is stored as an int8 is. */
void quantize(const float *values, long rows, long width, const float *inverse, int per_row,
              const int32_t *zero_point, float low, float high, uint8_t *restrict out,
              uint8_t *restrict inside, int threads) {
    float zero = zero_point ? (float)*zero_point : 0.0f;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long r = 0; r < rows; r++) {
        float of_row = inverse[per_row ? r : 0];
        const float *row = values + r * width;
        for (long i = 0; i < width; i++) {
            float integer = rintf(row[i] * of_row) + zero;
            float clamped = integer < low ? low : integer;
            clamped = clamped > high ? high : clamped;
            out[r * width + i] = (uint8_t)(int32_t)clamped;
            inside[r * width + i] = clamped == integer;
        }
    }
}

/* sums [rows] of the int8 numbers of each row. */
void row_sums(const int8_t *values, long rows, long width, int32_t *restrict sums, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long r = 0; r < rows; r++) {
        int32_t sum = 0;
        for (long i = 0; i < width; i++)
            sum += values[r * width + i];
        sums[r] = sum;
    }
}

/* out [rows, width] = (sums - zero point * offsets) * scales + bias: the float32 product that the
   integer sums stand for. offsets, scales: one a column; bias: one a column, or NULL. */
void scale_sums(const int32_t *sums, long rows, long width, const int32_t *zero_point,
                const int32_t *offsets, const float *scales, const float *bias,
                float *restrict out, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long r = 0; r < rows; r++)
        for (long i = 0; i < width; i++) {
            float scaled = (float)(sums[r * width + i] - *zero_point * offsets[i]) * scales[i];
            out[r * width + i] = bias ? scaled + bias[i] : scaled;
        }
}
