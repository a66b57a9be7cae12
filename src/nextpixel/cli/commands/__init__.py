"""The commands, a file each: thin, over the same functions as from Python.

A command is a module. Its docstring is the help, EXAMPLES ends it, `arguments` adds the options to
a parser, `run` does the work, and `report` prints what came of it. Nothing heavy is imported before
a command has read its options: help and mistakes answer at once. `nextpixel.cli` lists them all.
"""
