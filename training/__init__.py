"""How dgq-tiny is made: jobs with known answers, a tokenizer, and the training itself.

Not part of the installed package. Run as ``python -m training.train`` from the project's root.
"""
