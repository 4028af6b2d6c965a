"""What a job means: schema, prompts, splitting, assembling, checking. No torch, no Celery."""
