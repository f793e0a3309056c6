"""Verify blobs, then dispose of them: the only way a DAG deletes blobs. With quarantine and ledger."""
