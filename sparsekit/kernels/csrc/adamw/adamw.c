/* AdamW, and the gradient norm that clipping needs, each in one pass over memory; CPU only.

Results do not depend on the number of threads. The loops are written so that compilers vectorize
them. */

#include <math.h>
#include <stdint.h>

#include "../layout.h"

#define LANES 16
/* Values per partial sum of squares. */
#define BLOCK 8192
const long block_values = BLOCK;

/* A weight [rows, width] and its moving averages of the gradient and of its square. */
typedef struct {
    long rows, width;
    float *weight, *exp_avg, *exp_avg_sq;
    /* [rows, width], or with `gradient_rows` one row for each weight row that has a gradient. */
    const float *gradient;
    /* [rows]: the index of each weight row in `gradient`, -1 for a gradient of zero; or NULL. */
    const int32_t *gradient_rows;
    /* [rows], with `gradient_rows` only: whether the row's averages may be nonzero. */
    uint8_t *touched;
    /* 1 - lr * weight_decay, lr / (1 - beta1^step), 1 / sqrt(1 - beta2^step) */
    float decay, step_size, inverse_sqrt;
} parameter;

const layout_entry parameter_layout[] = {
    SIZE(parameter),
    FIELD(parameter, rows),
    FIELD(parameter, width),
    FIELD(parameter, weight),
    FIELD(parameter, exp_avg),
    FIELD(parameter, exp_avg_sq),
    FIELD(parameter, gradient),
    FIELD(parameter, gradient_rows),
    FIELD(parameter, touched),
    FIELD(parameter, decay),
    FIELD(parameter, step_size),
    FIELD(parameter, inverse_sqrt),
    END,
};

static float sum_of_squares(const float *values, long count) {
    float lanes[LANES] = {0}, sum = 0;
    long i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int l = 0; l < LANES; l++)
            lanes[l] += values[i + l] * values[i + l];
    for (; i < count; i++)
        sum += values[i] * values[i];
    for (int l = 0; l < LANES; l++)
        sum += lanes[l];
    return sum;
}

/* sums: the sum of squares of each block of each array, in the order of the arrays. */
void sums_of_squares(const float *const *arrays, const long *counts, long array_count, float *sums,
                     int threads) {
#pragma omp parallel num_threads(threads)
    {
        float *block_sums = sums;
        for (long a = 0; a < array_count; a++) {
            long blocks = (counts[a] + BLOCK - 1) / BLOCK;
#pragma omp for schedule(static) nowait
            for (long b = 0; b < blocks; b++) {
                long first = b * BLOCK, remaining = counts[a] - first;
                block_sums[b] =
                    sum_of_squares(arrays[a] + first, remaining < BLOCK ? remaining : BLOCK);
            }
            block_sums += blocks;
        }
    }
}

/* What all weights have in common. factor: of the gradients. new1, new2: 1 - beta1 and 1 - beta2,
   the shares of a new gradient and of its square in the averages. They are not computed here: in
   float32, 1 - 0.9999 is wrong by 0.02 %. */
typedef struct {
    float factor, new1, beta2, new2, epsilon;
} constants;

/* Updates one row. gradient: [width], not yet multiplied by the factor; NULL is 0. */
static void update(const parameter *p, long row, const float *gradient, constants c) {
    float *restrict weight = p->weight + row * p->width;
    float *restrict exp_avg = p->exp_avg + row * p->width;
    float *restrict exp_avg_sq = p->exp_avg_sq + row * p->width;
    for (long i = 0; i < p->width; i++) {
        float scaled = gradient ? gradient[i] * c.factor : 0.0f;
        exp_avg[i] += c.new1 * (scaled - exp_avg[i]);
        exp_avg_sq[i] = exp_avg_sq[i] * c.beta2 + c.new2 * scaled * scaled;
        float denominator = sqrtf(exp_avg_sq[i]) * p->inverse_sqrt + c.epsilon;
        weight[i] = weight[i] * p->decay - p->step_size * exp_avg[i] / denominator;
    }
}

static void update_row(const parameter *p, long row, constants c) {
    long gradient_row = p->gradient_rows ? p->gradient_rows[row] : row;
    if (gradient_row >= 0) {
        update(p, row, p->gradient + gradient_row * p->width, c);
        if (p->gradient_rows)
            p->touched[row] = 1;
    } else if (p->touched[row]) {
        update(p, row, 0, c);
    } else if (p->decay != 1.0f) {
        /* With averages of zero, only weight decay changes the row. */
        for (long i = row * p->width; i < (row + 1) * p->width; i++)
            p->weight[i] *= p->decay;
    }
}

/* One step for each parameter. */
void adamw(const parameter *parameters, long count, float factor, float new1, float beta2,
           float new2, float epsilon, int threads) {
    const constants c = {factor, new1, beta2, new2, epsilon};
#pragma omp parallel num_threads(threads)
    for (long a = 0; a < count; a++) {
#pragma omp for schedule(static) nowait
        for (long row = 0; row < parameters[a].rows; row++)
            update_row(&parameters[a], row, c);
    }
}
