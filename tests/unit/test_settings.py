import os
from pathlib import Path

import pytest

from warmclip.cli.options import read_settings
from warmclip.errors import SettingsError
from warmclip.settings import Root, Settings, read_env_file, without_password


def test_empty_environment() -> None:
    """Without any variable there are no servers, no roots, and a private home."""
    settings = Settings.from_env({})
    assert settings.redis_url is None
    assert settings.qdrant_url is None
    assert settings.roots == ()
    assert settings.provider == "auto"
    assert settings.home == Path("~/.warmclip").expanduser()


def test_empty_variable_counts_as_unset() -> None:
    """`REDIS_URL= make worker` means no REDIS_URL."""
    assert Settings.from_env({"REDIS_URL": "", "WARMCLIP_BATCH_SIZE": ""}) == Settings.from_env({})


def test_named_and_unnamed_roots() -> None:
    """A root may carry the name that hosts with different mounts agree on."""
    settings = Settings.from_env({"WARMCLIP_ROOTS": "photos=/mnt/photos:/srv/scans"})
    assert settings.roots == (
        Root(name="photos", folder=Path("/mnt/photos")),
        Root(name="", folder=Path("/srv/scans")),
    )


def test_limit_from_the_environment() -> None:
    """Every limit has a variable."""
    limits = Settings.from_env({"WARMCLIP_MAX_IMAGE_PIXELS": "1000"}).limits
    assert limits.image_pixels == 1000
    assert limits.image_bytes == Settings.from_env({}).limits.image_bytes


SECRETS = {
    "REDIS_URL": "redis://:secret@host:6379",
    "QDRANT_URL": "https://qdrant:6333",
    "QDRANT_API_KEY": "a-key",
    "WARMCLIP_TOKEN": "a-token",
}


@pytest.mark.parametrize("variable", SECRETS)
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_secret_from_a_file(
    variable: str, end: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is as if the variable had the file's text; the variable is known."""
    file = tmp_path / "secret"
    file.write_bytes(f"{SECRETS[variable]}{end}".encode())
    settings = Settings.from_env({f"{variable}_FILE": str(file)})
    assert settings == Settings.from_env({variable: SECRETS[variable]})
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (None, "there is no such file"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"s" * 8193, "more than 8192 bytes"),
        (b"secret\xff", "is not UTF-8 text"),
    ],
)
def test_unusable_secret_file(content: bytes | None, wrong: str, tmp_path: Path) -> None:
    """The error names variable and file, and does not repeat what is in it."""
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=wrong) as caught:
        Settings.from_env({"WARMCLIP_TOKEN_FILE": str(file)})
    assert f"WARMCLIP_TOKEN_FILE={file}" in str(caught.value)
    assert "secret" not in str(caught.value).removeprefix(f"WARMCLIP_TOKEN_FILE={file}")


def test_largest_secret_file(tmp_path: Path) -> None:
    """The bound itself is allowed."""
    file = tmp_path / "token"
    file.write_bytes(b"s" * 8192)
    assert Settings.from_env({"WARMCLIP_TOKEN_FILE": str(file)}).token == "s" * 8192


def test_secret_set_twice(tmp_path: Path) -> None:
    """Neither wins silently."""
    file = tmp_path / "token"
    file.write_text("one")
    both = {"WARMCLIP_TOKEN": "two", "WARMCLIP_TOKEN_FILE": str(file)}
    with pytest.raises(SettingsError, match="WARMCLIP_TOKEN and WARMCLIP_TOKEN_FILE are both set"):
        Settings.from_env(both)


def test_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container with any user's number: what is kept needs a folder, and all is well."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 2)
    with pytest.raises(SettingsError, match=r"no home folder.*WARMCLIP_HOME"):
        Settings.from_env({})
    assert Settings.from_env({"WARMCLIP_HOME": "/kept"}).home == Path("/kept")


def test_misspelt_variable(caplog: pytest.LogCaptureFixture) -> None:
    """A setting that nobody reads is said aloud, with the one that was meant."""
    Settings.from_env({"WARMCLIP_BACTH_SIZE": "8", "WARMCLIP_BATCH_SIZE": "4", "PATH": "/bin"})
    assert [record.getMessage() for record in caplog.records] == [
        "WARMCLIP_BACTH_SIZE is no setting of this warmclip; did you mean WARMCLIP_BATCH_SIZE?"
    ]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("WARMCLIP_BATCH_SIZE", "many"),
        ("WARMCLIP_BATCH_SIZE", "0"),
        ("WARMCLIP_MAX_IMAGE_BYTES", "-1"),
        ("WARMCLIP_HOME", "~nobody-at-all/x"),
        ("WARMCLIP_BUNDLE", "~nobody-at-all/x"),
        ("WARMCLIP_TOKEN_FILE", "~nobody-at-all/x"),
        ("WARMCLIP_EXIF", "rotate"),
        ("WARMCLIP_DECODE", "fast"),
        ("WARMCLIP_ROOTS", "photos=relative/folder"),
        ("WARMCLIP_JOBS", "os.system"),
        ("WARMCLIP_JOBS", "os:system()"),
        ("WARMCLIP_HANG_SECONDS", "0"),
        ("WARMCLIP_ROOTS", "a=/x:a=/y"),
        ("WARMCLIP_ROOTS", ":"),
        ("WARMCLIP_COLLECTION", "two words"),
        ("WARMCLIP_COLLECTION", "a__b"),
        ("QDRANT_URL", "localhost:6333"),
        ("REDIS_URL", "http://127.0.0.1"),
        ("REDIS_URL", "redis://host:port"),
        ("QDRANT_URL", "http://me:pass/word@127.0.0.1:6333"),
        ("QDRANT_URL", "http://:6333"),
        ("QDRANT_API_KEY", "two\nlines"),
    ],
)
def test_value_that_cannot_be_used(variable: str, value: str) -> None:
    """The error names the variable, so that the user knows what to change."""
    with pytest.raises(SettingsError, match=variable):
        Settings.from_env({variable: value})


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:hunter2@host:6379/0",
        "rediss://:hunter2@host",
        "unix:///run/redis.sock?password=hunter2",
        "hunter2@host",
        "redis://:hunter2/tail@host",
        "redis://:a#hunter2@host",
        "redis://user:a?hunter2@host",
        "redis://user:hunter2@host:99999",
    ],
)
def test_password_is_never_shown(url: str) -> None:
    """Neither the settings' own text, nor an address, nor an error shows a password."""
    try:
        assert "hunter2" not in repr(Settings.from_env({"REDIS_URL": url}))
        assert "hunter2" not in without_password(url)
    except SettingsError as exc:
        assert url not in str(exc)  # noqa: PT017 - the refusal is one of two good outcomes


def test_settings_through_a_pipe() -> None:
    """A child gets all that its parent had, secrets and odd folders included."""
    settings = Settings.from_env(
        {
            "WARMCLIP_HOME": "/srv/\udce9 warm",
            "REDIS_URL": "rediss://:secret@host/1",
            "WARMCLIP_ROOTS": "photos=/mnt/photos:/srv/scans",
            "WARMCLIP_JOBS": "myapp.training:train",
            "WARMCLIP_MAX_JOB_ITEMS": "7",
        }
    )
    line = settings.to_json()
    assert "\n" not in line
    assert line.isascii()
    assert Settings.from_json(line) == settings


def test_functions_of_ones_own() -> None:
    """They are named as Python's entry points are, and known as RQ names them."""
    settings = Settings.from_env({"WARMCLIP_JOBS": "myapp.training:train, other:run, all:*"})
    assert settings.jobs == ("myapp.training.train", "other.run", "all.*")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1", "http://127.0.0.1:6333"),
        ("http://qdrant/", "http://qdrant:6333/"),
        ("http://qdrant:6333", "http://qdrant:6333"),
        ("http://qdrant:80/", "http://qdrant:80/"),
        ("http://proxy/qdrant", "http://proxy:80/qdrant"),
        ("https://cloud.example", "https://cloud.example:443"),
        ("https://cloud.example/", "https://cloud.example:443/"),
        ("https://cloud.example:6333", "https://cloud.example:6333"),
        ("https://proxy/qdrant/", "https://proxy:443/qdrant/"),
        ("http://me:secret@qdrant", "http://me:secret@qdrant:6333"),
        ("http://[::1]", "http://[::1]:6333"),
        ("http://[::1]/a", "http://[::1]:80/a"),
        ("http://qdrant:", "http://qdrant:6333"),
    ],
)
def test_port_of_qdrant(url: str, expected: str) -> None:
    """The address has the port that is dialled, so that every message names it."""
    assert Settings.from_env({"QDRANT_URL": url}).qdrant_url == expected


@pytest.mark.parametrize("key", ["", " ", "\n"])
def test_empty_key(key: str) -> None:
    """As an application's template of a .env has it: there is no key."""
    assert Settings.from_env({"QDRANT_API_KEY": key}).qdrant_api_key is None


def test_file_with_variables(tmp_path: Path) -> None:
    """It is read as pydantic-settings reads it: quotes, comments, export, names in small letters,
    values that name other variables, a byte order mark; a name without a value says nothing.
    """
    file = tmp_path / ".env"
    file.write_text(
        "\ufeff# the application's\n"
        "export REDIS_URL='redis://:p%23ss@redis/1'  # a password\n"
        "qdrant_url=http://qdrant\n"
        "FOLDER=/mnt\n"
        'WARMCLIP_ROOTS="${FOLDER}/photos:${FOLDER}/scans"\n'
        "QDRANT_API_KEY=\n"
        "WARMCLIP_EXIF\n"
        "database_url=postgres://db\n",
        encoding="utf-8",
    )
    variables = read_env_file(file)
    assert variables["DATABASE_URL"] == "postgres://db"
    settings = Settings.from_env(variables)
    assert settings.redis_url == "redis://:p%23ss@redis/1"
    assert settings.qdrant_url == "http://qdrant:6333"
    assert settings.qdrant_api_key is None
    assert [root.folder for root in settings.roots] == [Path("/mnt/photos"), Path("/mnt/scans")]
    assert settings.exif == "ignore"


def test_file_beside_a_variable_that_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty variable counts as unset beside a file, too; one that says something comes first."""
    file = tmp_path / ".env"
    file.write_text("WARMCLIP_ROOTS=/mnt/photos\nWARMCLIP_COLLECTION=file\n")
    monkeypatch.setenv("WARMCLIP_ROOTS", "")
    monkeypatch.setenv("WARMCLIP_COLLECTION", "environment")
    settings = read_settings(env_file=file)
    assert [root.folder for root in settings.roots] == [Path("/mnt/photos")]
    assert settings.collection == "environment"


@pytest.mark.parametrize("content", [None, b"A=\xff"], ids=["missing", "no text"])
def test_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    """Asked for by name and not to be had is an error, which names it."""
    file = tmp_path / ".env"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=r"--env-file .*\.env"):
        read_env_file(file)
