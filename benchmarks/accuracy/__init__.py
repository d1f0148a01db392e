"""What networks learn: tables, folds, tasks of distance."""
