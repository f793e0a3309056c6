"""``xcom_orphan_reconciliation``: plan, find, decide, share out, sweep the orphans, finish with the report."""
