"""The engines of the workers, one file each, with `load(folder, dtype, threads, say)`; see `npsiglip.bench.worker`.

The file of a peer imports nothing of npsiglip but `npsiglip.bench.worker`, and the exporter also the peer whose model
it exports: they may run in an environment without Numba.
"""
