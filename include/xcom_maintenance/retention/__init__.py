"""The retention rules and what they say about each run: for the cleanup, the audit and the restore."""
