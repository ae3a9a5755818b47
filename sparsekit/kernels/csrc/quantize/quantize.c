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
                const int32_t *offsets, const float *scales, const float *bias, float *restrict out,
                int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long r = 0; r < rows; r++)
        for (long i = 0; i < width; i++) {
            float scaled = (float)(sums[r * width + i] - *zero_point * offsets[i]) * scales[i];
            out[r * width + i] = bias ? scaled + bias[i] : scaled;
        }
}

/* Moves the range *low to *high towards that of the values, by the share `averaging`; one that is
   infinite has seen nothing yet, and takes theirs. Then sets the scale and the zero point that map
   it, widened to hold 0, onto the integers from `bottom` to `top`. */
void observe(const float *values, long count, float averaging, float epsilon, float bottom,
             float top, int symmetric, float *low, float *high, float *scale, int32_t *zero_point,
             int threads) {
    float least = INFINITY, most = -INFINITY;
    int undefined = 0;
#pragma omp parallel for simd schedule(static) num_threads(threads) reduction(min : least)         \
    reduction(max : most) reduction(| : undefined)
    for (long i = 0; i < count; i++) {
        least = values[i] < least ? values[i] : least;
        most = values[i] > most ? values[i] : most;
        undefined |= values[i] != values[i];
    }
    if (undefined)
        least = most = NAN;
    int seen = isfinite(*low);
    *low = seen ? *low + averaging * (least - *low) : least;
    *high = seen ? *high + averaging * (most - *high) : most;
    float from = *low > 0.0f ? 0.0f : *low, to = *high < 0.0f ? 0.0f : *high;
    float found =
        symmetric ? (-from > to ? -from : to) / ((top - bottom) / 2) : (to - from) / (top - bottom);
    *scale = found < epsilon ? epsilon : found;
    if (symmetric) {
        *zero_point = ((int32_t)bottom + (int32_t)top + 1) / 2;
        return;
    }
    float zero = bottom - rintf(from / *scale);
    zero = zero < bottom ? bottom : zero;
    *zero_point = (int32_t)(zero > top ? top : zero);
}
