"""Workers: Celery wakes them, the ledger gives them shards, and the rows go back to the ledger."""
