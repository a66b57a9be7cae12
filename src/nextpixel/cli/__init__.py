"""The command line: its commands, and the options and loading that they share."""
