"""The rules of a list of models."""

from __future__ import annotations

import json

import pytest

from streamload._format import ListedModel, ModelFile, ModelList, format_models, format_of, parse_models
from streamload.errors import FormatError

SHA256 = "0123456789abcdef" * 4


def parse(value: object) -> ModelList:
    return parse_models(value if isinstance(value, bytes) else json.dumps(value).encode(), url="dir/models.json")


def one(**fields: object) -> dict[str, object]:
    return {"models": {"llama": {"source": "s3://bucket/llama", **fields}}}


def test_a_list_may_be_as_short_as_a_name_and_a_url():
    assert parse({"models": {"llama": "s3://b/llama"}}).models == {"llama": ListedModel(("s3://b/llama",))}


def test_every_field_is_read():
    parsed = parse(
        one(
            files={
                "x.safetensors": {
                    "nbytes": 3,
                    "sha256": SHA256.upper(),
                    "etag": '"e"',
                    "format": "safetensors",
                    "mtime_ns": 1,
                }
            },
            sha256={"x.safetensors": SHA256},
            include=["*.safetensors"],
            exclude=["*.bin"],
            storage_options={"anon": True},
            complete=False,
            nbytes=3,
            format="safetensors",
        )
    )
    assert parsed.models["llama"] == ListedModel(
        ("s3://bucket/llama",),
        {"x.safetensors": ModelFile(3, SHA256, '"e"', 1)},
        {"x.safetensors": SHA256},
        ("*.safetensors",),
        ("*.bin",),
        {"anon": True},
        complete=False,
    )


def test_what_is_written_reads_the_same_but_for_storage_options():
    model = ListedModel(("a", "b"), {"x.json": ModelFile(3, SHA256)}, {"": SHA256}, ("*",), (), {"secret": "s"}, False)
    written = format_models(ModelList({"llama": model}))
    assert "secret" not in written
    again = parse(written.encode()).models["llama"]
    assert (again.sources, again.files, again.sha256, again.complete) == (("a", "b"), model.files, {"": SHA256}, False)


def test_the_sum_and_the_format_of_a_model_are_written_down():
    files = {"a.safetensors": ModelFile(3), "config.json": ModelFile(4), "README": ModelFile(5)}
    written = json.loads(format_models(ModelList({"llama": ListedModel(("s",), files)})))["models"]["llama"]
    assert (written["nbytes"], written["format"]) == (12, "safetensors")
    assert [written["files"][name]["format"] for name in ("README", "a.safetensors", "config.json")] == [
        "",
        "safetensors",
        "json",
    ]
    assert format_of(".gitattributes") == format_of("unet.d/README") == ""


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"", "not valid JSON"),
        (b"[]", "expected a JSON object"),
        (b'{"models": {"a": "x", "a": "y"}}', "twice"),
        ({}, "no field 'models'"),
        ({"models": []}, "expected an object"),
        ({"models": {}, "version": 2}, "expected version 1, got 2"),
        ({"models": {}, "version": True}, "expected version 1"),
        ({"models": {}, "format": "other"}, "expected format"),
        ({"models": {}, "more": 1}, "unknown field 'more'"),
        ({"models": {"..": "x"}}, "becomes a directory"),
        ({"models": {".x": "x"}}, "no '.' at its start"),
        ({"models": {"a": "x", "a/b": "y"}}, "in the directory of model 'a'"),
        ({"models": {"a": 3}}, "expected an object"),
        ({"models": {"a": {}}}, "as source, got None"),
        ({"models": {"a": ""}}, "as source"),
        ({"models": {"a": {"source": ["x", ""]}}}, "as source"),
        (one(more=1), "unknown field 'more'"),
        (one(sha256="abc"), "64 hexadecimal digits"),
        (one(sha256={"../x": SHA256}), "refused"),
        (one(files={"/x": {}}), "refused"),
        (one(files={"x": {"nbytes": -1}}), "as nbytes"),
        (one(files={"x": {"nbytes": True}}), "as nbytes"),
        (one(files={"x": {"etag": 1}}), "as etag"),
        (one(files={"x": {"mtime_ns": "now"}}), "as mtime_ns"),
        (one(files={"x": {"sha256": 1}}), "as sha256"),
        (one(files={"x": {"more": 1}}), "unknown field"),
        (one(include="*"), "list of texts as include"),
        (one(exclude=[1]), "list of texts as exclude"),
        (one(storage_options=[]), "expected an object"),
        (one(complete="no"), "true or false as complete"),
    ],
)
def test_what_is_no_list_is_refused_and_said_where(value, says):
    with pytest.raises(FormatError, match=r"^dir/models\.json: list of models: ") as caught:
        parse(value)
    assert says in str(caught.value)
