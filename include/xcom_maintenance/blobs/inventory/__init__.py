"""A listing from an S3 Inventory instead of LIST calls."""
