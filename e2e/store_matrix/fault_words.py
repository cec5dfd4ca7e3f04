"""Which operations of a FUSE file system change something."""

CHANGES = (
    "write", "create", "mkdir", "rmdir", "unlink", "rename", "link", "symlink", "chmod", "chown", "truncate", "utimens"
)  # fmt: skip
