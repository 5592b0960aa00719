"""One file for each model family, registered in `backbones/family.py`. No other code names a family."""
