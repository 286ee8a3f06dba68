"""Keys as people set them, and texts that hold them."""

import time

import pytest

from iapo.artifacts.secrets import KeyFormatError, one_line, read_key, redacted

KEY = "sk-EXAMPLE-0123"


@pytest.mark.parametrize("value", [KEY, f"{KEY}\n", f" {KEY}\r\n", f"\t{KEY}\x0b"])
def test_a_key_is_read_without_what_surrounds_it(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("A_KEY", value)
    assert read_key("A_KEY") == KEY


def test_a_key_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", " \n")
    assert read_key("A_KEY") == read_key("NOT_SET_ANYWHERE") == ""


@pytest.mark.parametrize("value", [f"{KEY}\n{KEY}", f"{KEY}é", f"“{KEY}”", f"{KEY}\x1b"])
def test_a_key_that_no_header_holds_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("A_KEY", value)
    with pytest.raises(KeyFormatError, match=r"^A_KEY: found a key with a line end") as error:
        read_key("A_KEY")
    assert "EXAMPLE" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"Incorrect API key: {KEY}.", "Incorrect API key: ***."),
        (f"Invalid header value b'Bearer {KEY[:-1]}\\n'", "Invalid header value b'Bearer ***'"),
        ("Authorization: Basic bWU6dG9rZW4=, then", "Authorization: Basic ***, then"),
        ("http://user:token@host:80/v1", "http://***@host:80/v1"),
        ("at https://token@host/v1?x=http://a:b@c", "at https://***@host/v1?x=http://***@c"),
        ("http://user:p@ss@host/v1", "http://***@host/v1"),
        ('{"a": "http://h/v1", "b": "me@host"}', '{"a": "http://h/v1", "b": "me@host"}'),
        ("http://host/@name/v1@2", "http://host/@name/v1@2"),
    ],
)
def test_a_text_is_shown_without_secrets(text: str, shown: str) -> None:
    assert redacted(text, KEY, "") == shown


def test_a_placeholder_is_no_secret() -> None:
    assert redacted("none of the EMPTY rows", "none", "EMPTY") == "none of the EMPTY rows"


def test_a_text_is_cut_after_its_secrets_are_hidden() -> None:
    assert one_line(f"a\n {KEY} b", KEY, length=9) == "a *** b"
    assert one_line(f"12345 {KEY}", KEY, length=8) == "12345  …"
    assert not any("sk" in one_line("x" * i + KEY, KEY, length=20) for i in range(25))


@pytest.mark.parametrize("text", ["://" * 10**5, "://" + "a" * 10**6, "Bearer " * 10**5, "://" + "@" * 10**6])
def test_a_long_text_takes_linear_time(text: str) -> None:
    start = time.process_time()
    redacted(text, KEY)
    assert time.process_time() - start < 2
