/* SigLIP's image tower in plain C99: pixels in, unit vectors out. Written to be read, not to be fast.
 *
 * It is held to a conformance pack, from which it also has its weights and sizes (docs/packs.md):
 *
 *     npsiglip golden export --model builtin --format c -o pack
 *     cc -std=c99 -O2 -I pack docs/examples/siglip_image.c -lm -o siglip_image
 *     ./siglip_image pack                                        checks itself; exit status 1 if something is off
 *     npsiglip verify --pack pack --candidate ./siglip_image     says what is off, and why
 *
 * -DMISTAKE=1 to 6 plants one: tests/verify/test_packs_c.py has what the pack then says.
 *
 * N pictures of L patches; D channels, in H heads of D / H; M channels in the MLP. Arrays are [N, L, D], row by row.
 */
#include "npsiglip_pack.h"

#ifndef MISTAKE
#define MISTAKE 0 /* 1 erf GELU, 2 no MAP residual, 3 epsilon 1e-5, 4 no attention scale, 5 columns first, 6 BGR */
#endif

enum {
    N = NPSIGLIP_PICTURES,
    S = NPSIGLIP_IMAGE_IMAGE_SIZE,
    P = NPSIGLIP_IMAGE_PATCH_SIZE,
    GRID = S / P, /* what the patch does not divide is left out at the right and at the bottom */
    L = GRID * GRID,
    D = NPSIGLIP_IMAGE_WIDTH,
    H = NPSIGLIP_IMAGE_NUM_HEADS,
    M = NPSIGLIP_IMAGE_MLP_DIM
};

static int golden_input; /* level 2: every operation reads golden results, not those of the operation before */
static int writing, faults;

/* A result is there: check it, write it; at level 2 go on with the golden one. */
static void tap(const char *name, const char *part, float *x, int count)
{
    char whole[96];
    snprintf(whole, sizeof whole, "%s%s", name, part);
    int level = golden_input ? 2 : strcmp(whole, "zimg") == 0 ? 4 : 3;
    if (npsiglip_check(level, whole)) {
        faults += !npsiglip_compare(level, whole, x);
        if (writing)
            npsiglip_write(level, whole, x);
    }
    if (golden_input)
        memcpy(x, npsiglip_floats(whole), (size_t)count * sizeof *x);
}

static const float *weight(const char *name, const char *part, const char *which)
{
    char whole[96];
    snprintf(whole, sizeof whole, "weights/%s%s%s", name, part, which);
    return npsiglip_floats(whole);
}

static float *numbers(int count)
{
    float *x = malloc((size_t)count * sizeof *x);
    if (!x)
        npsiglip_fail("no memory", "numbers");
    return x;
}

/* y = x w + b: x [rows, in], w [in, out], b [out] */
static void linear(const char *name, const char *part, const float *x, int rows, int in, int out, float *y)
{
    const float *w = weight(name, part, ".w"), *b = weight(name, part, ".b");
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < out; o++) {
            float sum = 0;
            for (int i = 0; i < in; i++)
                sum += x[r * in + i] * w[i * out + o];
            y[r * out + o] = sum + b[o];
        }
    tap(name, part, y, rows * out);
}

/* y = (x - mean) / sqrt(variance + epsilon) * scale + b, over the D channels of each row */
static void layer_norm(const char *name, const char *part, const float *x, int rows, float *y)
{
    const float *scale = weight(name, part, ".scale"), *b = weight(name, part, ".b");
    const float epsilon = MISTAKE == 3 ? 1e-5f : (float)NPSIGLIP_IMAGE_LAYER_NORM_EPS;
    for (int r = 0; r < rows; r++, x += D, y += D) {
        float mean = 0, variance = 0;
        for (int i = 0; i < D; i++)
            mean += x[i] / D;
        for (int i = 0; i < D; i++)
            variance += (x[i] - mean) * (x[i] - mean) / D;
        for (int i = 0; i < D; i++)
            y[i] = (x[i] - mean) / sqrtf(variance + epsilon) * scale[i] + b[i];
    }
    tap(name, part, y - rows * D, rows * D);
}

/* 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))): in most models, and not the form with erf */
static float gelu(float x)
{
    if (NPSIGLIP_IMAGE_GELU_ERF || MISTAKE == 1)
        return 0.5f * x * erfcf(-x * 0.70710678f);
    double inner = 0.7978845608028654 * (x + 0.044715 * (double)x * x * x);
    return (float)(x / (1 + exp(-2 * inner))); /* the same, without the difference of nearly equal numbers */
}

/* softmax(q k^T / sqrt(D / H)) v, head by head: queries [N, lq, D] to keys and values [N, L, D] */
static void attend(const char *name, const float *q, int lq, const float *k, const float *v, float *mix)
{
    const int width = D / H;
    const float scale = MISTAKE == 4 ? 1 : 1 / sqrtf((float)width);
    float *probs = numbers(N * H * lq * L);
    for (int n = 0; n < N; n++)
        for (int h = 0; h < H; h++)
            for (int i = 0; i < lq; i++) {
                float *row = probs + ((n * H + h) * lq + i) * L, largest = -INFINITY, sum = 0;
                for (int j = 0; j < L; j++) {
                    float dot = 0;
                    for (int c = h * width; c < (h + 1) * width; c++)
                        dot += q[(n * lq + i) * D + c] * k[(n * L + j) * D + c];
                    row[j] = dot * scale;
                    largest = fmaxf(largest, row[j]);
                }
                for (int j = 0; j < L; j++)
                    sum += row[j] = expf(row[j] - largest);
                for (int j = 0; j < L; j++)
                    row[j] /= sum;
            }
    tap(name, ".probs", probs, N * H * lq * L);
    for (int n = 0; n < N; n++)
        for (int i = 0; i < lq; i++)
            for (int c = 0; c < D; c++) {
                const float *row = probs + ((n * H + c / width) * lq + i) * L;
                float sum = 0;
                for (int j = 0; j < L; j++)
                    sum += row[j] * v[(n * L + j) * D + c];
                mix[(n * lq + i) * D + c] = sum;
            }
    tap(name, ".mix", mix, N * lq * D);
    free(probs);
}

/* Attention of queries made from x [N, lq, D] to tokens [N, L, D]; y [N, lq, D] */
static void attention(const char *name, const float *x, int lq, const float *tokens, float *y)
{
    float *q = numbers(N * lq * D), *k = numbers(N * L * D), *v = numbers(N * L * D), *mix = numbers(N * lq * D);
    linear(name, ".q", x, N * lq, D, D, q);
    linear(name, ".k", tokens, N * L, D, D, k);
    linear(name, ".v", tokens, N * L, D, D, v);
    attend(name, q, lq, k, v, mix);
    linear(name, ".out", mix, N * lq, D, D, y);
    free(q), free(k), free(v), free(mix);
}

/* y = fc2(gelu(fc1(x))) */
static void mlp(const char *name, const float *x, int rows, float *y)
{
    float *h = numbers(rows * M);
    linear(name, ".fc1", x, rows, D, M, h);
    for (int i = 0; i < rows * M; i++)
        h[i] = gelu(h[i]);
    tap(name, ".gelu", h, rows * M);
    linear(name, ".fc2", h, rows, M, D, y);
    free(h);
}

static void add(const char *name, const char *part, float *x, const float *y, int count)
{
    for (int i = 0; i < count; i++)
        x[i] += y[i];
    tap(name, part, x, count);
}

/* Patches [P, P, 3] of pixels [N, 3, S, S], row by row of the grid, times w */
static void patch_embed(const float *pixels, float *x)
{
    float *patches = numbers(N * L * P * P * 3), *at = patches;
    for (int n = 0; n < N; n++)
        for (int l = 0; l < L; l++) {
            int top = l / GRID * P, left = l % GRID * P;
            if (MISTAKE == 5)
                top = l % GRID * P, left = l / GRID * P;
            for (int row = top; row < top + P; row++)
                for (int column = left; column < left + P; column++)
                    for (int channel = 0; channel < 3; channel++)
                        *at++ = pixels[((n * 3 + (MISTAKE == 6 ? 2 - channel : channel)) * S + row) * S + column];
        }
    linear("image", ".patch_embed", patches, N * L, P * P * 3, D, x);
    free(patches);
}

/* One block: x + attention(ln1(x)), then x + mlp(ln2(x)) */
static void block(int number, float *x)
{
    char name[32], attn[40], in_mlp[40];
    float *y = numbers(N * L * D), *z = numbers(N * L * D);
    snprintf(name, sizeof name, "image.blocks.%02d", number);
    snprintf(attn, sizeof attn, "%s.attn", name);
    snprintf(in_mlp, sizeof in_mlp, "%s.mlp", name);
    layer_norm(name, ".ln1", x, N * L, y);
    attention(attn, y, L, y, z);
    add(name, ".+attn", x, z, N * L * D);
    layer_norm(name, ".ln2", x, N * L, y);
    mlp(in_mlp, y, N * L, z);
    add(name, ".+mlp", x, z, N * L * D);
    free(y), free(z);
}

/* The MAP head: a learned probe attends to all tokens; then x + mlp(ln(x)). x [N, L, D], pooled [N, D] */
static void map_head(const float *x, float *pooled)
{
    float probe[N * D], y[N * D], z[N * D];
    for (int n = 0; n < N; n++)
        memcpy(probe + n * D, weight("image", ".map_head", ".probe"), D * sizeof *probe);
    attention("image.map_head.attn", probe, 1, x, pooled);
    layer_norm("image.map_head", ".ln", pooled, N, y);
    mlp("image.map_head.mlp", y, N, z);
    if (MISTAKE == 2)
        memset(pooled, 0, N * D * sizeof *pooled);
    add("image.map_head", ".+mlp", pooled, z, N * D);
    tap("image", ".pooled", pooled, N * D);
}

/* The whole tower: pixels [N, 3, S, S] to unit vectors [N, D] */
static void image_tower(const float *pixels, float *zimg)
{
    float *x = numbers(N * L * D), *y = numbers(N * L * D);
    const float *positions = weight("image", ".pos_embed", "");
    patch_embed(pixels, x);
    for (int i = 0; i < N * L * D; i++)
        x[i] += positions[i % (L * D)];
    tap("image", ".embed", x, N * L * D);
    for (int i = 0; i < NPSIGLIP_IMAGE_DEPTH; i++)
        block(i, x);
    layer_norm("image", ".final_ln", x, N * L, y);
    map_head(y, zimg);
    for (int n = 0; n < N; n++) {
        float squares = 0;
        for (int i = 0; i < D; i++)
            squares += zimg[n * D + i] * zimg[n * D + i];
        for (int i = 0; i < D; i++)
            zimg[n * D + i] /= sqrtf(squares);
    }
    tap("zimg", "", zimg, N * D);
    free(x), free(y);
}

int main(int count, char **arguments)
{
    float zimg[N * D];
    if (count != 2 && count != 3) {
        fprintf(stderr, "usage: %s PACK [FOLDER FOR RESULTS]\n", arguments[0]);
        return 2;
    }
    npsiglip_load(arguments[1]);
    writing = count == 3;
    if (writing)
        npsiglip_open(arguments[2]);
    for (golden_input = 1; golden_input >= 0; golden_input--) /* single operations, then the whole tower */
        image_tower(npsiglip_floats("image.pixels"), zimg);
    if (writing)
        npsiglip_close();
    printf("%d results off\n", faults);
    return !writing && faults > 0; /* what was written is for npsiglip verify to judge */
}
