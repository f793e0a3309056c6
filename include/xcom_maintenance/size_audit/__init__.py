"""``xcom_size_audit``: measure, judge, report. Reads only."""
