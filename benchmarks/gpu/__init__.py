"""Checks of the GPU paths, on random weights: no data, no network and no checkpoint are needed.

Usage: `python -m benchmarks.gpu` on a machine with a GPU, in at most eight minutes; `python -m benchmarks.gpu --device cpu --size tiny`
runs the same code with tiny sizes, to try the script itself. The results are in benchmarks/results/gpu.json. `checks.py` lists the checks;
`inputs.py` makes the models and the data.
"""
