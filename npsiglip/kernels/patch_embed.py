"""Patch embedding, first half: cut the image into rows of a matrix. The second half is a linear layer (gemm.py)."""

from numba import prange

from npsiglip.kernels.jit import parallel_kernel


@parallel_kernel
def extract_patches(pixels, patch_size, out):
    """Patches, row by row, of pixels [N, 3, H, W] -> out [N * L, P * P * 3], each ordered (row, column, channel).

    What the patch does not divide is left out at the right and at the bottom, as a VALID convolution does.
    """
    n, channels, height, width = pixels.shape
    rows, columns = height // patch_size, width // patch_size
    for task in prange(n * rows):
        image, top = task // rows, task % rows * patch_size
        for column in range(columns):
            patch = out[task * columns + column]
            i = 0
            for y in range(top, top + patch_size):
                for x in range(column * patch_size, (column + 1) * patch_size):
                    for channel in range(channels):
                        patch[i] = pixels[image, channel, y, x]
                        i += 1
