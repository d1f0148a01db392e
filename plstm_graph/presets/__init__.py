"""Configuration files of training runs; :mod:`plstm_graph.commands.presets` finds them by name."""
