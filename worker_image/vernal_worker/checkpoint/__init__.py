"""Engine-agnostic freeze and thaw of a process tree with CRIU.

`launch` starts a tree that can be frozen, `freeze` writes a running tree into a directory and leaves it
running, `thaw` brings a directory back to life, `doctor` says whether this host can do it, `host` describes
the host for the match. Nothing here imports torch or vllm. Times are in seconds, sizes in bytes.

The caller is process 1 of its PID namespace (a container's) or a descendant that lives as long: a tree has
no other guard against outliving its supervisor, because `PR_SET_PDEATHSIG` fires when the *thread* that
launched it ends.
"""
