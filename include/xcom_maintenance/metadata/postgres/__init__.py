"""The adapter for a Postgres Connection: a module for each subject, put together in ``store``."""
