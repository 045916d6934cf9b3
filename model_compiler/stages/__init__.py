"""The stages of a compilation, in the order of ``pipeline.py``. Each takes a value and gives one that promises more."""
