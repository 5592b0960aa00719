"""The vision-language models that an encoder is built on.

In: a name or a folder in Hugging Face format, and packed rows of tokens and patches. Out: the loaded model, with attention and
positions that need no padding. The protocol in `family.py` covers the differences between families. Each family has one file in
`families/`; code outside this package names no family. Open `family.py` first.
"""
