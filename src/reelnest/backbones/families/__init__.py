"""One file for each model family, registered as `backbones/family.py` says. Nothing else names a family."""
