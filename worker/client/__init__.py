"""Using the queue from Python: submit, watch, collect, verify."""
