"""Every query is in here: functions of a session that take and return values, never rows.

The caller owns the transaction (`rag_owl.db.reading`, `rag_owl.db.writing`).
"""
