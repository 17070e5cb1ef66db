"""Shards to network to metrics. torch; never Dask, never OpenCV."""
