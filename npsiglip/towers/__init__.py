"""Both towers on Numba kernels, recorded once for a shape and then run without Python.

    layers          layers with packed weights, and the matrices between them
    blocks          transformer blocks, work buffers, passes
    image, text     the two towers
    positions       position embeddings for other grids
    footprint       how much memory a model takes

The truth that they are compared with is `npsiglip.reference.model`.
"""
