/* Blocks of the empirical Fisher information of a Linear layer's weight; CPU only.

LANES blocks are a group, whose matrices lie side by side: sums [groups, size * (size + 1) / 2,
LANES], each group a packed lower triangle of vectors. Each thread works on whole groups, so its
number does not change a bit. See sparsekit/sparsity/fisher.py for the mathematics. */

#include <string.h>

#include "../layout.h"
#include "factor.h"
#include "gradients.h"
#include "vectors.h"

#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num(void) { return 0; }
#endif

/* Examples whose gradients are in the cache at once, and the sides of a tile of sums in registers.
 */
#define EXAMPLES 32
#define TILE 4
#if LANES == 16
#define TILE_ROWS 4
#else
#define TILE_ROWS 2
#endif

const long lanes = LANES;
const long examples_at_once = EXAMPLES;
const long tile = TILE;

const layout_entry products_layout[] = {SIZE(products),
                                        FIELD(products, inputs),
                                        FIELD(products, grad_outputs),
                                        FIELD(products, examples),
                                        FIELD(products, tokens),
                                        FIELD(products, in),
                                        FIELD(products, out),
                                        END};

/* Adds the squares of `examples` gradients [examples, padded, LANES] to a group's sums. */
static void add_squares(const vector *gradients, long examples, long size, long padded,
                        vector *sums) {
    for (long i = 0; i < size; i += TILE_ROWS)
        for (long j = 0; j <= i + TILE_ROWS - 1; j += TILE) {
            vector found[TILE_ROWS][TILE];
            memset(found, 0, sizeof found);
            for (long n = 0; n < examples; n++) {
                const vector *left = gradients + n * padded + i,
                             *right = gradients + n * padded + j;
                for (int a = 0; a < TILE_ROWS; a++)
                    for (int b = 0; b < TILE; b++)
                        found[a][b] += left[a] * right[b];
            }
            for (int a = 0; a < TILE_ROWS && i + a < size; a++)
                for (int b = 0; b < TILE && j + b <= i + a; b++)
                    sums[row_start(i + a) + j + b] += found[a][b];
        }
}

/* Adds g gᵀ of every example's gradient g to the sums of its blocks.
   scratch: for each thread LANES * size values, and EXAMPLES * padded * LANES, where padded is the
   size rounded up to a multiple of TILE; zeros at the first call. */
void add_products(const products *from, long size, float *sums, float *scratch, int threads) {
    long per_group = LANES * size, weights = from->in * from->out;
    long groups = (weights + per_group - 1) / per_group;
    long padded = (size + TILE - 1) / TILE * TILE, triangle = row_start(size);
    long per_thread = per_group + EXAMPLES * padded * LANES;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long group = 0; group < groups; group++) {
        float *gradients = scratch + omp_get_thread_num() * per_thread;
        float *flat = gradients + EXAMPLES * padded * LANES;
        for (long first = 0; first < from->examples; first += EXAMPLES) {
            long count = min_long(EXAMPLES, from->examples - first);
            for (long n = 0; n < count; n++) {
                example_gradient(from, first + n, group * per_group, per_group, flat);
                to_lanes(flat, size, gradients + n * padded * LANES);
            }
            add_squares((const vector *)gradients, count, size, padded,
                        (vector *)(sums + group * triangle * LANES));
        }
    }
}

/* A group's weights or mask [LANES, size] as lanes [size, LANES]; zeros after the last. */
static void load_lanes(const float *values, long weights, long first, long size, float *lanes) {
    for (long i = 0; i < size; i++)
        for (int lane = 0; lane < LANES; lane++) {
            long at = first + lane * size + i;
            lanes[i * LANES + lane] = at < weights ? values[at] : 0.0f;
        }
}

/* inverses [blocks, size / width, width, width]: the squares on the diagonals of the inverted
   blocks, float64. The last block is padded; mask [weights]: 0.0 where a weight is pruned, else
   1.0. scratch: for each thread (triangle + (2 + width) * size) * HALF values. */
void inverse_squares(const float *sums, const float *mask, long weights, long size, long width,
                     double count, double damp, double rounding, double *inverses, double *scratch,
                     int threads) {
    long per_group = LANES * size, groups = (weights + per_group - 1) / per_group;
    long blocks = (weights + size - 1) / size, triangle = row_start(size);
    long per_thread = (triangle + (2 + width) * size) * HALF;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long group = 0; group < groups; group++) {
        doubles *matrix = (doubles *)(scratch + omp_get_thread_num() * per_thread);
        doubles *reciprocals = matrix + triangle, *columns = reciprocals + size;
        float *masks = (float *)(columns + width * size);
        load_lanes(mask, weights, group * per_group, size, masks);
        for (int half = 0; half < 2; half++) {
            damped_matrix(sums + group * triangle * LANES + half * HALF, masks + half * HALF, size,
                          count, damp, rounding, matrix);
            factorize(matrix, size, reciprocals);
            long first = group * LANES + half * HALF, present = min_long(HALF, blocks - first);
            for (long q = 0; q < size; q += width) {
                /* The inverse is L⁻ᵀ L⁻¹, so its entries are products of columns of L⁻¹. */
                memset(columns, 0, width * size * sizeof(doubles));
                for (long a = 0; a < width; a++) {
                    columns[a * size + q + a] += 1.0;
                    solve_lower(matrix, reciprocals, size, q + a, columns + a * size);
                }
                for (long a = 0; a < width; a++)
                    for (long b = 0; b < width; b++) {
                        doubles entry =
                            dot(columns + a * size + q, columns + b * size + q, size - q);
                        for (long lane = 0; lane < present; lane++)
                            inverses[((first + lane) * size + q) * width + a * width + b] =
                                entry[lane];
                    }
            }
        }
    }
}

/* moved [weights]: the weights where mask is 1.0, updated for the removal of those where it is 0.0,
   which become zero. The arguments are those of inverse_squares, with a width of 2. */
void compensate(const float *sums, const float *weight, const float *mask, long weights, long size,
                double count, double damp, double rounding, float *moved, double *scratch,
                int threads) {
    long per_group = LANES * size, groups = (weights + per_group - 1) / per_group;
    long triangle = row_start(size), per_thread = (triangle + 4 * size) * HALF;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long group = 0; group < groups; group++) {
        doubles *matrix = (doubles *)(scratch + omp_get_thread_num() * per_thread);
        doubles *reciprocals = matrix + triangle, *step = reciprocals + size;
        float *masks = (float *)(step + size), *values = masks + size * LANES;
        load_lanes(mask, weights, group * per_group, size, masks);
        load_lanes(weight, weights, group * per_group, size, values);
        for (int half = 0; half < 2; half++) {
            const float *own = sums + group * triangle * LANES + half * HALF;
            const float *kept = masks + half * HALF, *old = values + half * HALF;
            /* F_SQ w_Q; the damping has no part in it, since it lies on the diagonal. */
            for (long i = 0; i < size; i++)
                step[i] = (doubles){0};
            for (long i = 0; i < size; i++)
                for (long j = 0; j <= i; j++) {
                    doubles entry = widened(own + (row_start(i) + j) * LANES) / count;
                    doubles kept_i = widened(kept + i * LANES), kept_j = widened(kept + j * LANES);
                    step[i] += kept_i * (1.0 - kept_j) * entry * widened(old + j * LANES);
                    step[j] += kept_j * (1.0 - kept_i) * entry * widened(old + i * LANES);
                }
            damped_matrix(own, kept, size, count, damp, rounding, matrix);
            factorize(matrix, size, reciprocals);
            solve_lower(matrix, reciprocals, size, 0, step);
            solve_upper(matrix, reciprocals, size, step);
            for (long i = 0; i < size; i++) {
                doubles result = widened(kept + i * LANES) * (widened(old + i * LANES) + step[i]);
                for (long lane = 0; lane < HALF; lane++) {
                    long at = group * per_group + (half * HALF + lane) * size + i;
                    if (at < weights)
                        moved[at] = (float)result[lane];
                }
            }
        }
    }
}
