"""Reads the containers of video files and converts decoded frames to images.

In: the paths of one video. Out: a `Source`, checked and open, with its `Track`: the container's packets, which of them are displayed, and
when. The decoders are in `decoders/` and build on this package. Open `source.py` first.
"""
