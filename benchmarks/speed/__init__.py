"""What takes how long, correctness checked first."""
