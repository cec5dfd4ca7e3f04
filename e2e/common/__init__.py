"""What the programs of e2e share: the cache, locks, what a person sees of a step, and running tools."""
