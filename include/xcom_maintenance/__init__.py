"""Cleanup, size audit and orphan reconciliation for the XComs of Apache Airflow 3."""
