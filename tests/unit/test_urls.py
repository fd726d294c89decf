"""What a URL says, what of it is shown, and how names are put under it."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamload._sources._urls import is_remote, join, redact, scheme_of, scrub, split

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("url", "scheme"),
    [
        ("models/llama", ""),
        ("/models/a::b", ""),
        ("file:///x", "file"),
        ("FILE:/x", "file"),
        ("S3://bucket/key", "s3"),
        ("hf://org/name", "hf"),
        ("simplecache::s3://bucket/key", "::"),
        ("zip://a.safetensors::s3://bucket/z.zip", "::"),
        (Path("s3:/bucket"), ""),
    ],
)
def test_scheme_is_found(url, scheme):
    assert scheme_of(url) == scheme
    assert is_remote(url) == (scheme not in ("", "file"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"https://host/a/b.safetensors?X-Amz-Signature={SECRET}", "https://host/a/b.safetensors"),
        (f"https://user:{SECRET}@host:8443/a", "https://host:8443/a"),
        (f"https://user:{SECRET}@host", "https://host"),
        (f"https://host/a#{SECRET}", "https://host/a"),
        (f"https://host?{SECRET}/x@y", "https://host"),
        (f"simplecache::https://u:{SECRET}@host/a?k={SECRET}", "simplecache::https://host/a"),
        (f"zip://a?{SECRET}::https://host/z.zip?{SECRET}", "zip://a::https://host/z.zip"),
        ("s3://bucket/a@b/c", "s3://bucket/a@b/c"),
        ("hf://org/name@main/x.safetensors", "hf://org/name@main/x.safetensors"),
        ("abfs://box@account.dfs.core.windows.net/x", "abfs://box@account.dfs.core.windows.net/x"),
        ("models/a?b#c", "models/a?b#c"),
    ],
)
def test_secrets_are_not_shown(url, shown):
    assert redact(url) == shown


@pytest.mark.parametrize(
    "text",
    [
        f"403, message='Forbidden', url='https://host/a?sig={SECRET}'",
        f'GET https://u:{SECRET}@host/a failed: "https://host?{SECRET}"',
        f"('Connection aborted', 'https://host/a#{SECRET}')",
    ],
)
def test_secrets_in_others_texts_are_cut_out(text):
    assert SECRET not in scrub(text)
    assert "host" in scrub(text)


@pytest.mark.parametrize(
    ("directory", "name", "url"),
    [
        ("s3://bucket/dir", "x", "s3://bucket/dir/x"),
        ("s3://bucket", "x", "s3://bucket/x"),
        ("memory://", "x", "memory://x"),
        ("https://host/dir?sig=1", "x", "https://host/dir/x?sig=1"),
        ("simplecache::s3://b/d", "x", "simplecache::s3://b/d/x"),
        ("zip://d::s3://b/z.zip", "x", "zip://d/x::s3://b/z.zip"),
        ("zip://::s3://b/z.zip", "x", "zip://x::s3://b/z.zip"),
    ],
)
def test_names_go_below_and_come_back(directory, name, url):
    assert join(directory, name) == url
    assert split(url) == (directory, name)


def test_slash_at_the_end_means_nothing():
    assert join("s3://b/d/", "x") == "s3://b/d/x"
    assert split("s3://b/d/") == ("s3://b", "d")
