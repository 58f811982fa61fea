"""Training and test data with known truth."""
