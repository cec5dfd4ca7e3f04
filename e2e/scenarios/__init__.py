"""What runs on a cluster: the demo, and the same scenario as a test. Standard library and kubectl only."""
