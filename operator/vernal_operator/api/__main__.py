"""`python -m vernal_operator.api`: write the CRDs, docs/reference/ and the schema of the chart's values from the
models, or check that they are current.

The CRDs are written twice: to crds/, for `kubectl apply`, and into the chart, since Helm reads only what lies in its
folder and complains about a link out of it.
"""

import argparse
import difflib
import sys
from pathlib import Path
from typing import Any

import yaml
from vernal_contract import names

from vernal_operator.api import docs, values
from vernal_operator.api.crd import KINDS, crd
from vernal_operator.api.policy import overlay_policy

HEADER = "# Generated from operator/vernal_operator/api by `make crds`; do not edit.\n"
CRD_FOLDERS = ("crds", "charts/vernal/files/crds")


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def files() -> dict[str, str]:
    """Every generated file by its path from the repository's root. The same on every run."""
    out: dict[str, str] = {}
    for kind in KINDS:
        text = yaml.dump(crd(kind), Dumper=_NoAliases, sort_keys=False, width=110, allow_unicode=True)
        for folder in CRD_FOLDERS:
            out[f"{folder}/{names.GROUP}_{kind.plural}.yaml"] = HEADER + text
        out[f"docs/reference/{kind.kind.lower()}.md"] = docs.page(kind)
    policy = yaml.dump(overlay_policy(), Dumper=_NoAliases, sort_keys=False, width=110, allow_unicode=True)
    out["charts/vernal/files/pod-template-policy.yaml"] = HEADER + policy
    out["charts/vernal/values.schema.json"] = values.schema()
    return out


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m vernal_operator.api",
        description="Write the CRDs (crds/, and once more into the chart), the reference pages (docs/reference/) and "
        "the chart's admission policy and values.schema.json from the pydantic models. A CRD there that no model makes "
        "is removed.",
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; show what differs and exit 1 if anything does"
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="the repository's root (default: the current directory)",
    )
    args = parser.parse_args(argv)
    stale = 0
    wanted: dict[str, str | None] = {**files(), **dict.fromkeys(_left_over(args.root))}
    for name, text in wanted.items():
        path: Path = args.root / name
        old = path.read_text() if path.exists() else ""
        if old == text:
            continue
        if args.check:
            stale += 1
            new = (text or "").splitlines(True)
            sys.stdout.writelines(difflib.unified_diff(old.splitlines(True), new, name, f"{name} (from the models)"))
        elif text is None:
            path.unlink()
            print(f"removed {name}")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"wrote {name}")
    if stale:
        print(f"error: {stale} generated files differ from the models: run `make crds`", file=sys.stderr)
    return 1 if stale else 0


def _left_over(root: Path) -> list[str]:
    """CRDs of kinds that there are no more."""
    made = files()
    found = (f"{folder}/{path.name}" for folder in CRD_FOLDERS for path in (root / folder).glob("*.yaml"))
    return sorted(name for name in found if name not in made)


if __name__ == "__main__":
    sys.exit(main())
