"""The adapter for S3."""
