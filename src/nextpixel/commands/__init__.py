"""The commands, a file each: thin, over the same functions as from Python.

Nothing heavy is imported before a command has read its options: help and mistakes answer at once.
"""
