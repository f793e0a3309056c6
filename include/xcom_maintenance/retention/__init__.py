"""The retention rules and their verdict on each run: for the cleanup, the audit and the restore."""
