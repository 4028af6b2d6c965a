"""The truth about batches, in Redis: what was accepted, who works on it, what came out."""
