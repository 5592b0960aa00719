"""The vision-language models that an encoder is built on.

In: a name or a folder in Hugging Face format, and packed rows of tokens and patches. Out: the loaded model, with attention and
positions that need no padding. What differs from family to family is behind the protocol in `family.py`, with one file for each family
in `families/`; nothing outside this package names a family. Open `family.py` first.
"""
