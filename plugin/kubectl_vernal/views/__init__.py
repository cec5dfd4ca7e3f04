"""Pure: what the verbs say, computed over a `read.World`. Nothing here reads, waits or looks at the clock."""
