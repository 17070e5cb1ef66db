"""The click commands of the pipeline, one module per group; they translate options and print, nothing else."""
