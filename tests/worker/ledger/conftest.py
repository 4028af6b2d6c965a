from tests.worker.fresh import ledger, server

__all__ = ["ledger", "server"]
