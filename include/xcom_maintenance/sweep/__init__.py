"""Verify blobs, then dispose of them: the one way in which a DAG deletes blobs. With quarantine and ledger."""
