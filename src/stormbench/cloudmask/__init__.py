"""CloudMask: cloud masks for Sentinel-3 SLSTR. So far the options of its training, from which jobs are checked and rendered."""
