"""The command line: the commands, their shared options, and loading what they name."""
