"""The commands of the command line other than stages, one file for each group of commands.

In: a workspace, the settings and the command's arguments. Out: files, or a text for `cli.py` to print. Open the file with the command's
name.
"""
