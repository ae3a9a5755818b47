/* AdamW, and the norm of the gradients that it takes, each in one pass over memory; on a CPU.

Results do not depend on the number of threads. The loops are written so that compilers turn them
into vectors. */

#include <math.h>
#include <stdint.h>

#include "../layout.h"

#define LANES 16
/* Values whose squares make one partial sum. */
#define BLOCK 8192
const long block_values = BLOCK;

/* A weight [rows, width] with the averages of its gradients and of their squares. */
typedef struct {
    long rows, width;
    float *weight, *average, *square;
    /* Of every row, or of the rows that `places` gives a place in it; -1 is a gradient of zero. */
    const float *gradient;
    const int32_t *places;
    /* Of each row with places: whether its averages may be other than zero. */
    uint8_t *moved;
    /* 1 - lr * weight decay, lr / (1 - beta1^step), 1 / sqrt(1 - beta2^step) */
    float decay, step_size, inverse_root;
} parameter;

const layout_entry parameter_layout[] = {
    SIZE(parameter),
    FIELD(parameter, rows),
    FIELD(parameter, width),
    FIELD(parameter, weight),
    FIELD(parameter, average),
    FIELD(parameter, square),
    FIELD(parameter, gradient),
    FIELD(parameter, places),
    FIELD(parameter, moved),
    FIELD(parameter, decay),
    FIELD(parameter, step_size),
    FIELD(parameter, inverse_root),
    END,
};

static float squares(const float *values, long count) {
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

/* sums: of the squares of each block of each array, one array after the other. */
void sums_of_squares(const float *const *arrays, const long *counts, long many, float *sums,
                     int threads) {
#pragma omp parallel num_threads(threads)
    {
        float *of_array = sums;
        for (long a = 0; a < many; a++) {
            long blocks = (counts[a] + BLOCK - 1) / BLOCK;
#pragma omp for schedule(static) nowait
            for (long b = 0; b < blocks; b++) {
                long first = b * BLOCK, left = counts[a] - first;
                of_array[b] = squares(arrays[a] + first, left < BLOCK ? left : BLOCK);
            }
            of_array += blocks;
        }
    }
}

/* The numbers of a row from `first` to `last`, whose gradients are still to be multiplied by
   `factor`. */
static void update(const parameter *p, long row, const float *gradient, float factor, float beta1,
                   float beta2, float epsilon) {
    float *restrict weight = p->weight + row * p->width;
    float *restrict average = p->average + row * p->width;
    float *restrict square = p->square + row * p->width;
    for (long i = 0; i < p->width; i++) {
        float g = gradient ? gradient[i] * factor : 0.0f;
        average[i] += (1.0f - beta1) * (g - average[i]);
        square[i] = square[i] * beta2 + (1.0f - beta2) * g * g;
        float root = sqrtf(square[i]) * p->inverse_root + epsilon;
        weight[i] = weight[i] * p->decay - p->step_size * average[i] / root;
    }
}

static void update_row(const parameter *p, long row, float factor, float beta1, float beta2,
                       float epsilon) {
    long place = p->places ? p->places[row] : row;
    if (place >= 0) {
        update(p, row, p->gradient + place * p->width, factor, beta1, beta2, epsilon);
        if (p->places)
            p->moved[row] = 1;
    } else if (p->moved[row]) {
        update(p, row, 0, factor, beta1, beta2, epsilon);
    } else if (p->decay != 1.0f) {
        /* All that is left where the averages are zero. */
        for (long i = row * p->width; i < (row + 1) * p->width; i++)
            p->weight[i] *= p->decay;
    }
}

/* One step of every parameter, with its gradients times `factor`. */
void adamw(const parameter *parameters, long many, float factor, float beta1, float beta2,
           float epsilon, int threads) {
#pragma omp parallel num_threads(threads)
    for (long a = 0; a < many; a++) {
#pragma omp for schedule(static) nowait
        for (long row = 0; row < parameters[a].rows; row++)
            update_row(&parameters[a], row, factor, beta1, beta2, epsilon);
    }
}
