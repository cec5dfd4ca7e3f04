"""The generated CRDs: structural, documented, and as the models say."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from vernal_operator.api.__main__ import files, main
from vernal_operator.api.crd import CHECKPOINT, KINDS, POOL, Kind, crd, object_schema
from vernal_operator.plan.model import Manifest

ROOT = Path(__file__).parents[3]
FORBIDDEN = {
    "$ref",
    "definitions",
    "$defs",
    "deprecated",
    "discriminator",
    "id",
    "patternProperties",
    "readOnly",
    "xml",
}


def walk(schema: Manifest, path: str = "") -> Iterator[tuple[str, Manifest]]:
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from walk(field, f"{path}.{name}")
    for inner in ("items", "additionalProperties"):
        if inner in schema:
            yield from walk(schema[inner], f"{path}[]")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_structural(kind: Kind) -> None:
    """https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema"""
    for path, schema in walk(object_schema(kind)):
        assert not FORBIDDEN & schema.keys(), path
        assert "type" in schema or schema.get("x-kubernetes-int-or-string"), f"{path} has no type"
        assert not {"anyOf", "oneOf", "allOf", "not"} & schema.keys(), path
        assert not ("properties" in schema and "additionalProperties" in schema), path
        assert not ("type" in schema and schema.get("x-kubernetes-int-or-string")), path
        if schema.get("type") == "array":
            assert "items" in schema, path
        if schema.get("type") == "object" and path != ".metadata":
            free = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
            assert free or "properties" in schema, f"{path}: its fields are neither known nor free"
        if schema.get("default") is not None:
            assert schema.get("type") != "array" or isinstance(schema["default"], list), path
        if schema.get("x-kubernetes-list-type") == "map":
            keys = schema["x-kubernetes-list-map-keys"]
            assert set(keys) <= set(schema["items"]["required"]), path


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_every_field_is_explained(kind: Kind) -> None:
    for path, schema in walk(object_schema(kind)):
        if path.startswith((".spec", ".status")) and not path.endswith("[]"):
            assert schema.get("description", "").endswith("."), f"{path}: {schema.get('description')}"


def test_unknown_fields_are_only_kept_where_they_are_somebody_elses() -> None:
    kept = {path for path, schema in walk(object_schema(POOL)) if schema.get("x-kubernetes-preserve-unknown-fields")}
    assert kept == {
        ".spec.engineArgs",
        ".spec.kvTransfer.options",
        ".spec.podTemplate.spec",
        ".spec.autoscaling.metrics[]",
        ".spec.autoscaling.behavior",
    }


def test_defaults() -> None:
    spec = object_schema(POOL)["properties"]["spec"]["properties"]
    assert spec["replicas"]["default"] == 1
    assert spec["checkpoint"]["default"] == {} and spec["model"]["properties"]["source"]["default"] == {"hub": {}}
    assert set(object_schema(POOL)["properties"]["spec"]["required"]) == {"image", "model"}
    assert not [p for p, s in walk(object_schema(POOL)["properties"]["status"]) if "default" in s]


def test_scale_and_columns() -> None:
    [version] = crd(POOL)["spec"]["versions"]
    assert version["subresources"]["scale"] == {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    columns = version["additionalPrinterColumns"]
    assert [c["name"] for c in columns if "priority" not in c] == [
        "Desired", "Ready", "Status", "Why", "Restored", "Checkpoint", "Age"
    ]  # fmt: skip
    assert crd(POOL)["spec"]["names"]["shortNames"] == ["vwp"]
    assert crd(CHECKPOINT)["spec"]["names"]["shortNames"] == ["vck"]


def test_the_committed_files_are_those_of_the_models() -> None:
    assert main(["--check", "--root", str(ROOT)]) == 0, "run `make crds`"


def test_the_chart_holds_its_own_files() -> None:
    """Helm follows a link, and says so at every call."""
    chart = ROOT / "charts" / "vernal"
    assert [path for path in chart.rglob("*") if path.is_symlink()] == []
    in_chart = {path.name: path.read_text() for path in (chart / "files" / "crds").iterdir()}
    assert in_chart == {path.name: path.read_text() for path in (ROOT / "crds").iterdir()}


@pytest.mark.parametrize("folder", ["crds", "charts/vernal/files/crds"])
def test_checking_finds_a_change_in_either_folder_and_a_file_too_many(folder: str, tmp_path: Path, capsys: Any) -> None:
    arguments = ["--root", str(tmp_path)]
    assert main(arguments) == 0
    changed, more = (tmp_path / folder / f"vernal.dev_{name}.yaml" for name in ("vllmworkerpools", "vllmoldkinds"))
    changed.write_text(changed.read_text().replace("minimum: 0", "minimum: -1", 1))
    more.write_text("{}")
    assert main([*arguments, "--check"]) == 1
    said = capsys.readouterr()
    assert f"{folder}/{changed.name}" in said.out and f"{folder}/{more.name}" in said.out
    assert "2 generated files" in said.err
    assert main(arguments) == 0 and main([*arguments, "--check"]) == 0
    assert not more.exists()


def test_writing_is_deterministic_and_checking_finds_a_change(tmp_path: Path, capsys: Any) -> None:
    assert main(["--root", str(tmp_path)]) == 0 and main(["--check", "--root", str(tmp_path)]) == 0
    assert files() == files()
    path = tmp_path / "crds/vernal.dev_vllmworkerpools.yaml"
    assert yaml.safe_load(path.read_text())["metadata"]["name"] == "vllmworkerpools.vernal.dev"
    path.write_text(path.read_text().replace("minimum: 0", "minimum: -1", 1))
    assert main(["--check", "--root", str(tmp_path)]) == 1
    assert "make crds" in capsys.readouterr().err
