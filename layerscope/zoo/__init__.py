"""Networks and data by name, and their training."""
