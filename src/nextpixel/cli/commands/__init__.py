"""The commands, one module each: thin wrappers of functions that Python users can call as well.

A command's docstring is its help and EXAMPLES ends it; `arguments` adds the options to a parser,
`run` does the work, and `report` prints the results. Nothing heavy is imported before the options
have been read, so that help and mistakes answer at once. `nextpixel.cli.main` lists the commands.
"""
