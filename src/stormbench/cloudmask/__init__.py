"""CloudMask: cloud masks for Sentinel-3 SLSTR. So far its data, from products to converted files, and the options of its training."""
