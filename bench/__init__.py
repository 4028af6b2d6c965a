"""``dgq bench``: kernels checked against their references, speed and memory measured, and the roofline."""
