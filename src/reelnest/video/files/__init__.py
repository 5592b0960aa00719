"""What is in a video file, before and after it is decoded.

In: the paths of one video. Out: a `Source`, checked and open, with its `Track`: the container's packets, which of them are shown, and when.
Everything a decoder needs is here; the decoders are in `decoders/`. Open `source.py` first.
"""
