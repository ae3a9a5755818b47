/* Elementwise operations of quantization-aware training, each in one pass over memory; CPU only.

The loops are written so that compilers vectorize them. Compiled without floating-point contraction,
they are bit-equal to torch's operations. */

#include <math.h>
#include <stdint.h>

/* out [rows, width] = clamp(round(values * inverse_scale) + zero_point), halves rounded to even, as
   uint8, or as int8 where quant_min is negative. inside: 1 where nothing was clamped.
   inverse_scale: one reciprocal scale, or one per row. zero_point: NULL is 0. */
void quantize(const float *values, long rows, long width, const float *inverse_scale, int per_row,
              const int32_t *zero_point, float quant_min, float quant_max, uint8_t *restrict out,
              uint8_t *restrict inside, int threads) {
    float zero = zero_point ? (float)*zero_point : 0.0f;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long r = 0; r < rows; r++) {
        float row_inverse_scale = inverse_scale[per_row ? r : 0];
        const float *row = values + r * width;
        for (long i = 0; i < width; i++) {
            float integer = rintf(row[i] * row_inverse_scale) + zero;
            float clamped = integer < quant_min ? quant_min : integer;
            clamped = clamped > quant_max ? quant_max : clamped;
            out[r * width + i] = (uint8_t)(int32_t)clamped;
            inside[r * width + i] = clamped == integer;
        }
    }
}

/* sums [rows]: the sum of each row of int8 values. */
void row_sums(const int8_t *values, long rows, long width, int32_t *restrict sums, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long r = 0; r < rows; r++) {
        int32_t sum = 0;
        for (long i = 0; i < width; i++)
            sum += values[r * width + i];
        sums[r] = sum;
    }
}

/* out [rows, width] = (sums - zero_point * offsets) * scales + bias: the float32 result of an
   integer matmul. offsets, scales: one per column; bias: one per column, or NULL. */
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

/* Moves the range *min_val to *max_val towards that of the values by the share averaging_constant;
   an infinite range has observed nothing yet, and is replaced. Then sets the scale and the zero
   point that map the range, extended to include 0, onto quant_min to quant_max. No values change
   nothing. */
void observe(const float *values, long count, float averaging_constant, float epsilon,
             float quant_min, float quant_max, int symmetric, float *min_val, float *max_val,
             float *scale, int32_t *zero_point, int threads) {
    if (count == 0)
        return;
    float minimum = INFINITY, maximum = -INFINITY;
    int has_nan = 0;
#pragma omp parallel for simd schedule(static) num_threads(threads) reduction(min : minimum)       \
    reduction(max : maximum) reduction(| : has_nan)
    for (long i = 0; i < count; i++) {
        minimum = values[i] < minimum ? values[i] : minimum;
        maximum = values[i] > maximum ? values[i] : maximum;
        has_nan |= values[i] != values[i]; /* NOLINT(misc-redundant-expression) */
    }
    if (has_nan)
        minimum = maximum = NAN;
    int has_range = isfinite(*min_val);
    *min_val = has_range ? *min_val + averaging_constant * (minimum - *min_val) : minimum;
    *max_val = has_range ? *max_val + averaging_constant * (maximum - *max_val) : maximum;
    float low = *min_val > 0.0f ? 0.0f : *min_val, high = *max_val < 0.0f ? 0.0f : *max_val;
    float new_scale = symmetric ? (-low > high ? -low : high) / ((quant_max - quant_min) / 2)
                                : (high - low) / (quant_max - quant_min);
    *scale = new_scale < epsilon ? epsilon : new_scale;
    if (symmetric) {
        *zero_point = ((int32_t)quant_min + (int32_t)quant_max + 1) / 2;
        return;
    }
    float zero = quant_min - rintf(low / *scale);
    zero = zero < quant_min ? quant_min : zero;
    *zero_point = (int32_t)(zero > quant_max ? quant_max : zero);
}
