"""What both sides share: standard library, numpy and mlperf_logging only."""
