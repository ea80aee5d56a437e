"""DeepCAM, the PyTorch workload: storms in CAM5 climate simulations."""
