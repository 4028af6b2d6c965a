"""The commands of ``dgq``, one file each; what they need is imported when they run."""
