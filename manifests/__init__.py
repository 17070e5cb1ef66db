"""The contract between the pipeline and the trainer: manifests, the shard format, what a sample is, the error tree.

Neither Dask nor torch is imported anywhere below this package, and OpenCV only by
:mod:`fbind.manifests.blending` at the moment something is blended.
"""
