"""What the command line does beside the stages, a file a group of commands.

In: a workspace, the settings and the command's arguments. Out: files, or a text for `cli.py` to print. Open the file of the command's
name.
"""
