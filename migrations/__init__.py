"""The schema's history (Alembic), for SQLite and PostgreSQL. Imports only `rag_owl.rows`."""
