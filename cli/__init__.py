"""The command line: a file per command; each parses, makes one library call, and prints."""
