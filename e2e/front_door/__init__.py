"""One thawed worker, everything that clients do wrong at once, and eight that do nothing wrong."""
