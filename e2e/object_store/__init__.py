"""A real S3 server for tests: versitygw, built from the Go module that `go/` pins."""

from pathlib import Path

from cluster.programs import Programs

PROGRAMS = Programs(
    name="object-store",
    sources=Path(__file__).parent / "go",
    targets={"versitygw": ("go.mod", "github.com/versity/versitygw/cmd/versitygw")},
    takes="about 2 minutes on 2 cores the first time",
)
