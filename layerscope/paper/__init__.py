"""The paper's experiments, and what becomes of their runs."""
