"""Which files a path stands for, and what is refused instead of guessed."""

from __future__ import annotations

import os

import pytest

import streamload._checkpoint as checkpoints
from streamload.errors import FormatError


def opened(path, **arguments: str):
    with checkpoints.open(path, **arguments) as checkpoint:
        return {name: os.path.relpath(checkpoint.shards[info.shard].url, path) for name, info in checkpoint.items()}


@pytest.mark.parametrize("form", [str, lambda path: path, lambda path: path.as_uri()])
def test_text_path_and_url_are_the_same(sharded, form):
    with checkpoints.open(form(sharded)) as checkpoint:
        assert list(checkpoint) == ["a", "b", "c", "d"]
        assert [shard.url for shard in checkpoint.shards][:1] == [str(sharded / "model-00001-of-00003.safetensors")]


def test_index_file_itself_opens(sharded):
    with checkpoints.open(sharded / "model.safetensors.index.json") as checkpoint:
        assert len(checkpoint.shards) == 3


def test_index_in_the_working_directory_opens(sharded, monkeypatch):
    monkeypatch.chdir(sharded)
    with checkpoints.open("model.safetensors.index.json") as checkpoint:
        assert len(checkpoint) == 4


def test_model_file_comes_before_the_index(sharded, write):
    write(sharded / "model.safetensors", "whole")
    assert opened(sharded) == {"whole": "model.safetensors"}


def test_model_comes_before_diffusion_names(tmp_path, write):
    write(tmp_path / "diffusion_pytorch_model.safetensors", "unet")
    assert opened(tmp_path) == {"unet": "diffusion_pytorch_model.safetensors"}
    write(tmp_path / "model.safetensors", "text")
    assert opened(tmp_path) == {"text": "model.safetensors"}


def test_other_files_beside_the_model_are_not_loaded(sharded, write):
    write(sharded / "consolidated.safetensors", "a")
    write(sharded / "adapter_model.safetensors", "lora")
    assert set(opened(sharded)) == {"a", "b", "c", "d"}


def test_consolidated_copy_is_not_loaded_twice_without_an_index(tmp_path, write):
    write(tmp_path / "consolidated.00.safetensors", "a")
    write(tmp_path / "part.safetensors", "a")
    assert opened(tmp_path) == {"a": "part.safetensors"}


def test_consolidated_alone_is_loaded(tmp_path, write):
    write(tmp_path / "consolidated.safetensors", "a")
    assert opened(tmp_path) == {"a": "consolidated.safetensors"}


def test_lone_index_of_another_name_is_followed(tmp_path, write, write_index):
    write(tmp_path / "x.safetensors", "a")
    write(tmp_path / "unrelated.safetensors", "a")
    write_index(tmp_path / "other.safetensors.index.json", {"a": "x.safetensors"})
    assert opened(tmp_path) == {"a": "x.safetensors"}


def test_competing_indices_are_named(tmp_path, write_index):
    for stem in ("one", "two"):
        write_index(tmp_path / f"{stem}.safetensors.index.json", {})
    with pytest.raises(ValueError, match=r"one\.safetensors\.index\.json, two"):
        checkpoints.open(tmp_path)


def test_files_without_an_index_are_all_loaded_in_natural_order(tmp_path, write):
    for number in (10, 9, 2):
        write(tmp_path / f"part{number}.safetensors", f"t{number}")
    assert list(opened(tmp_path)) == ["t2", "t9", "t10"]


def test_name_in_two_files_without_an_index_is_refused(tmp_path, write):
    write(tmp_path / "one.safetensors", "a")
    write(tmp_path / "two.safetensors", "b", "a")
    with pytest.raises(FormatError, match=r"two\.safetensors: tensor 'a' is also in .*one\.safetensors, and no index"):
        checkpoints.open(tmp_path)


def test_incomplete_numbered_set_names_the_missing_shard(tmp_path, write):
    for number in (1, 3):
        write(tmp_path / f"model-0000{number}-of-00003.safetensors", f"t{number}")
    with pytest.raises(FileNotFoundError, match=r"shard of this numbered set is missing.*model-00002-of-00003"):
        checkpoints.open(tmp_path)


@pytest.mark.parametrize(
    "index",
    [
        "model.safetensors.index.fp16.json",
        "model.safetensors.fp16.index.json",
        "model.fp16.safetensors.index.json",
        "diffusion_pytorch_model.safetensors.index.fp16.json",
    ],
)
def test_variant_chooses_its_index(sharded, index, write, write_index):
    write(sharded / "model.fp16-00001-of-00001.safetensors", "a")
    write_index(sharded / index, {"a": "model.fp16-00001-of-00001.safetensors"})
    assert opened(sharded, variant="fp16") == {"a": "model.fp16-00001-of-00001.safetensors"}


def test_variant_chooses_its_file(sharded, write):
    write(sharded / "model.fp16.safetensors", "half")
    assert opened(sharded, variant="fp16") == {"half": "model.fp16.safetensors"}
    assert "half" not in opened(sharded)


def test_missing_variant_is_an_error_and_never_another_file(sharded):
    with pytest.raises(FileNotFoundError, match="no safetensors file of variant 'fp16' in this directory, which holds"):
        checkpoints.open(sharded, variant="fp16")


@pytest.mark.parametrize("variant", ["", "../fp16", "a\0"])
def test_variant_that_is_no_part_of_a_name_is_refused(sharded, variant):
    with pytest.raises(ValueError, match="expected a variant"):
        checkpoints.open(sharded, variant=variant)


def test_variant_of_a_single_file_is_refused(tmp_path, write):
    with pytest.raises(ValueError, match="chosen in a directory"):
        checkpoints.open(write(tmp_path / "model.safetensors", "a"), variant="fp16")


def test_links_to_blobs_are_followed(tmp_path, write, write_index):
    blob = write(tmp_path / "blobs" / "0123abcd", "a")
    snapshot = tmp_path / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "model-00001-of-00001.safetensors").symlink_to("../../blobs/0123abcd")
    write_index(tmp_path / "blobs" / "4567", {"a": "model-00001-of-00001.safetensors"})
    (snapshot / "model.safetensors.index.json").symlink_to("../../blobs/4567")
    assert opened(snapshot) == {"a": "model-00001-of-00001.safetensors"}
    blob.unlink()
    with pytest.raises(FileNotFoundError, match="symbolic link to a missing file"):
        checkpoints.open(snapshot)


def test_dangling_model_link_is_not_passed_over(tmp_path, write):
    (tmp_path / "model.safetensors").symlink_to("../blobs/gone")
    write(tmp_path / "other.safetensors", "a")
    with pytest.raises(FileNotFoundError, match=r"symbolic link.*model\.safetensors"):
        checkpoints.open(tmp_path)


def test_missing_shard_is_named_with_its_index(sharded):
    (sharded / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"a shard that .*index\.json names.*model-00002-of-00003"):
        checkpoints.open(sharded)


def test_tensor_that_the_shard_lacks_is_named(sharded, write):
    write(sharded / "model-00002-of-00003.safetensors", "other")
    with pytest.raises(FormatError, match=r"sends tensor 'c' to .*model-00002-of-00003\.safetensors, which lacks it"):
        checkpoints.open(sharded)


def test_tensor_in_another_shard_than_the_index_says_is_an_error(sharded, write):
    write(sharded / "model-00001-of-00003.safetensors", "a", "b", "c")
    write(sharded / "model-00002-of-00003.safetensors", "other")
    with pytest.raises(FormatError, match="which lacks it"):
        checkpoints.open(sharded)


def test_index_decides_where_shards_repeat_a_name(sharded, write):
    write(sharded / "model-00001-of-00003.safetensors", "a", "b", "c", "d")
    assert opened(sharded)["c"] == "model-00002-of-00003.safetensors"


def test_tensors_beyond_the_index_are_part_of_the_checkpoint(sharded, write):
    write(sharded / "model-00003-of-00003.safetensors", "d", "extra")
    assert opened(sharded)["extra"] == "model-00003-of-00003.safetensors"


def test_repeated_tensor_beyond_the_index_is_refused(sharded, write):
    write(sharded / "model-00002-of-00003.safetensors", "c", "extra")
    write(sharded / "model-00003-of-00003.safetensors", "d", "extra")
    with pytest.raises(FormatError, match="tensor 'extra' is also in"):
        checkpoints.open(sharded)


def test_index_that_leaves_its_directory_is_refused_before_anything_is_opened(sharded, monkeypatch, write, write_index):
    write(sharded.parent / "outside.safetensors", "a")
    write_index(sharded / "model.safetensors.index.json", {"a": "../outside.safetensors"})
    with pytest.raises(FormatError, match=r"shard '\.\./outside\.safetensors' is refused"):
        checkpoints.open(sharded)


def test_empty_path_is_refused():
    with pytest.raises(ValueError, match="the path is empty"):
        checkpoints.open("")


def test_other_scheme_is_refused():
    with pytest.raises(ValueError, match=r"is not supported.*s3://"):
        checkpoints.open("nonsense://bucket/model")


def test_missing_path_is_named():
    with pytest.raises(FileNotFoundError, match=r"no such file.*org/name"):
        checkpoints.open("org/name")


@pytest.mark.parametrize(("files", "held"), [([], "nothing"), (["config.json", "README.md"], "README.md, config.json")])
def test_directory_without_safetensors_says_what_it_holds(tmp_path, files, held):
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match=f"no safetensors file in this directory, which holds {held}"):
        checkpoints.open(tmp_path)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt", "x.pth", "x.ckpt"]
)
def test_directory_of_pickles_is_refused_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    (tmp_path / "config.json").touch()
    with pytest.raises(FormatError, match=f"only pickle checkpoints \\({name}\\)"):
        checkpoints.open(tmp_path)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("pytorch_model.bin", b"PK\x03\x04" + bytes(100)),
        ("model.pt", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j" + bytes(100)),
        ("model.pth", b"\0" * 100),
        ("empty.bin", b""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pickle_file_is_refused_by_name(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(FormatError, match=f"{name}: not a safetensors file.*by its name it is a pickle checkpoint"):
        checkpoints.open(tmp_path / name)


def test_safetensors_under_a_pickle_name_still_open(tmp_path, write):
    assert opened(write(tmp_path / "weights.bin", "a"))


def test_index_of_pickles_is_refused(tmp_path, write_index):
    index = write_index(tmp_path / "pytorch_model.bin.index.json", {"a": "pytorch_model-00001-of-00002.bin"})
    with pytest.raises(FormatError, match="the index of a pickle checkpoint"):
        checkpoints.open(index)


def test_text_file_is_named_as_text(tmp_path):
    (tmp_path / "README.md").write_text("# A model card\n")
    with pytest.raises(
        FormatError, match=r"README\.md: not a safetensors file but a text file that starts with '# A mode'"
    ):
        checkpoints.open(tmp_path / "README.md")


def test_index_beyond_the_cap_is_not_read(tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    with path.open("wb") as file:
        file.truncate(100_000_001)
    with pytest.raises(FormatError, match="index of 100000001 bytes"):
        checkpoints.open(path)


def test_directory_in_place_of_a_file_is_refused(tmp_path):
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(IsADirectoryError):
        checkpoints.open(tmp_path)
