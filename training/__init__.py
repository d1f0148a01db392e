"""The command line behind ``train.py``: verbs, reports and the comparison of several presets."""
