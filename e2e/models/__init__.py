"""Small random models that tests, the demo and benches serve."""
