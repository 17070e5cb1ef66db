"""Images to clusters to recipes to shards. OpenCV and Dask; never torch."""
