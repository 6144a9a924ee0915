/* Reads a pack of npsiglip, compares results with it, and writes them for `npsiglip verify`.
 *
 * C99, no library but libm; for machines that store numbers as x86 and ARM do (little-endian, IEEE 754).
 * Everything is static: include it in one file. The pack's own npsiglip_pack_data.h has the sizes and tables.
 */
#ifndef NPSIGLIP_PACK_H
#define NPSIGLIP_PACK_H

#include "npsiglip_pack_data.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__)
#define NPSIGLIP_MAYBE __attribute__((unused))
#else
#define NPSIGLIP_MAYBE
#endif

static unsigned char *npsiglip_numbers; /* all of tensors.bin */

static void npsiglip_fail(const char *what, const char *name)
{
    fprintf(stderr, "npsiglip pack: %s: %s\n", what, name);
    exit(2);
}

static const NpsiglipTensor *npsiglip_find(const char *name)
{
    for (int i = 0; i < NPSIGLIP_TENSORS; i++)
        if (strcmp(npsiglip_tensors[i].name, name) == 0)
            return &npsiglip_tensors[i];
    npsiglip_fail("there is no such tensor", name);
    return NULL;
}

/* Read FOLDER/tensors.bin. */
NPSIGLIP_MAYBE static void npsiglip_load(const char *folder)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/tensors.bin", folder);
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END))
        npsiglip_fail("cannot be read", path);
    const NpsiglipTensor *last = &npsiglip_tensors[NPSIGLIP_TENSORS - 1];
    long size = ftell(file);
    long each = strcmp(last->type, "uint8_t") == 0 ? 1 : 4;
    if (size < (long)(last->offset + last->count * each))
        npsiglip_fail("is cut short", path);
    rewind(file);
    npsiglip_numbers = malloc((size_t)size);
    if (!npsiglip_numbers || fread(npsiglip_numbers, 1, (size_t)size, file) != (size_t)size)
        npsiglip_fail("cannot be read", path);
    fclose(file);
}

/* The numbers of a tensor: pixels, golden results, weights ("weights/image.patch_embed.w"). */
NPSIGLIP_MAYBE static const float *npsiglip_floats(const char *name)
{
    const NpsiglipTensor *tensor = npsiglip_find(name);
    if (strcmp(tensor->type, "float") != 0)
        npsiglip_fail("holds no floats", name);
    return (const float *)(const void *)(npsiglip_numbers + tensor->offset);
}

NPSIGLIP_MAYBE static const int32_t *npsiglip_ints(const char *name)
{
    const NpsiglipTensor *tensor = npsiglip_find(name);
    if (strcmp(tensor->type, "int32_t") != 0)
        npsiglip_fail("holds no integers", name);
    return (const int32_t *)(const void *)(npsiglip_numbers + tensor->offset);
}

static const NpsiglipCheck *npsiglip_check(int level, const char *tap)
{
    for (int i = 0; i < NPSIGLIP_CHECKS; i++)
        if (npsiglip_checks[i].level == level && strcmp(npsiglip_checks[i].tap, tap) == 0)
            return &npsiglip_checks[i];
    return NULL;
}

/* How far a result is from the golden one, in the measure of the check; infinite where it is no number. */
static double npsiglip_error(const NpsiglipCheck *check, const float *found)
{
    const NpsiglipTensor *tensor = npsiglip_find(check->tap);
    const float *golden = npsiglip_floats(check->tap);
    double squares = 0, unit = 0, largest = 0;
    for (long long i = 0; i < tensor->count; i++) {
        double difference = (double)found[i] - golden[i];
        if (!isfinite(difference))
            return INFINITY;
        squares += difference * difference;
        unit += (double)golden[i] * golden[i];
        largest = fmax(largest, fabs(difference));
    }
    if (check->measure == NPSIGLIP_LARGEST)
        return largest;
    return squares == 0 ? 0 : sqrt(squares / unit);
}

/* Whether a result conforms; says so on stderr if not. What the pack does not check at this level conforms. */
NPSIGLIP_MAYBE static int npsiglip_compare(int level, const char *tap, const float *found)
{
    const NpsiglipCheck *check = npsiglip_check(level, tap);
    double error = check ? npsiglip_error(check, found) : 0;
    if (!check || error <= check->limit)
        return 1;
    fprintf(stderr, "level %d, %s (%s): off by %.2g, limit %.2g\n", level, tap, check->operation, error, check->limit);
    return 0;
}

/* Whether token ids are the golden ones (level 0). */
NPSIGLIP_MAYBE static int npsiglip_same(const char *tap, const int32_t *found)
{
    const NpsiglipTensor *tensor = npsiglip_find(tap);
    if (memcmp(found, npsiglip_ints(tap), (size_t)tensor->count * sizeof *found) == 0)
        return 1;
    fprintf(stderr, "level 0, %s: other ids\n", tap);
    return 0;
}

/* Results, for `npsiglip verify`: FOLDER/results.bin and FOLDER/manifest.json. */
static FILE *npsiglip_results, *npsiglip_manifest;

NPSIGLIP_MAYBE static void npsiglip_open(const char *folder)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/results.bin", folder);
    npsiglip_results = fopen(path, "wb");
    snprintf(path, sizeof path, "%s/manifest.json", folder);
    npsiglip_manifest = fopen(path, "w");
    if (!npsiglip_results || !npsiglip_manifest)
        npsiglip_fail("cannot be written", path);
    fputs("{", npsiglip_manifest);
}

/* A result in the shape of its golden one. Level 2's are called level2.TAP. */
NPSIGLIP_MAYBE static void npsiglip_write(int level, const char *tap, const float *found)
{
    const NpsiglipTensor *tensor = npsiglip_find(tap);
    long at = ftell(npsiglip_results);
    fprintf(npsiglip_manifest, "%s\n\"%s%s\": {\"file\": \"results.bin\", \"dtype\": \"<f4\", \"offset\": %ld, \"shape\": [",
            at ? "," : "", level == 2 ? "level2." : "", tap, at);
    for (int i = 0; i < tensor->axes; i++)
        fprintf(npsiglip_manifest, "%s%d", i ? ", " : "", tensor->shape[i]);
    fputs("]}", npsiglip_manifest);
    if (fwrite(found, sizeof *found, (size_t)tensor->count, npsiglip_results) != (size_t)tensor->count)
        npsiglip_fail("cannot be written", tap);
}

NPSIGLIP_MAYBE static void npsiglip_close(void)
{
    fputs("\n}\n", npsiglip_manifest);
    if (fclose(npsiglip_manifest) || fclose(npsiglip_results))
        npsiglip_fail("cannot be written", "results");
}

#endif
