"""The command line behind ``plstm-graph``: verbs, reports and the comparison of several presets."""
