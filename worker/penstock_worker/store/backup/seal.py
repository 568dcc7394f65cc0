"""
Encryption of backups in the format of age, https://age-encryption.org/v1, so that other programs can open them too.

The machine that makes backups has the public key only: whoever takes it over cannot read older backups.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import IO, Any, TypeVar

import pyrage

from penstock_worker.errors import ConfigurationError

__all__ = ["make_key", "open_bytes", "open_stream", "read_identities", "read_recipients", "seal_bytes", "seal_stream"]

T = TypeVar("T")

_SECRET = "AGE-SECRET-KEY-"  # noqa: S105  # how a secret key begins
_SSH_SECRET = "-----BEGIN "  # noqa: S105  # the same


def make_key(path: Path, now: datetime) -> Path:
    """
    Make a pair of keys: the secret one at `path`, the public one beside it.

    Returns:
        Where the public one is.

    Raises:
        ConfigurationError: One of the files is there already; a key that is written over takes its backups with it.
    """
    public_path = path.with_name(f"{path.name}.pub")
    if public_path.exists():
        raise ConfigurationError(f"{public_path} is there already: keep it and its secret key, and say another name")
    identity = pyrage.x25519.Identity.generate()
    public = identity.to_public()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as exc:
        raise ConfigurationError(f"{path} is there already: backups may need it; say another name") from exc
    with os.fdopen(descriptor, "w") as file:
        file.write(f"# created: {now.isoformat(timespec='seconds')}\n# public key: {public}\n{identity}\n")
        file.flush()
        os.fsync(file.fileno())
    public_path.write_text(f"{public}\n")
    return public_path


def read_recipients(path: Path) -> list[Any]:
    """
    The public keys in a file, a line each: `age1...`, `ssh-ed25519 ...` or `ssh-rsa ...`.

    Raises:
        ConfigurationError: There are none, or what is there is none.
    """
    text = _read(path)
    if _SECRET in text or text.startswith(_SSH_SECRET):
        raise ConfigurationError(f"{path} is a secret key: give the public one, as a rule {path}.pub")
    return _some(path, (_recipient(path, line) for line in _lines(text)), "public")


def read_identities(path: Path) -> list[Any]:
    """
    The secret keys in a file: `AGE-SECRET-KEY-...`, a line each, or a secret key of SSH without a passphrase.

    Raises:
        ConfigurationError: There are none, or what is there is none.
    """
    text = _read(path)
    if text.startswith(_SSH_SECRET):
        return [_parsed(path, lambda: pyrage.ssh.Identity.from_buffer(text.encode()), "secret")]
    return _some(path, (_identity(path, line) for line in _lines(text)), "secret")


def seal_bytes(data: bytes, recipients: list[Any]) -> bytes:
    sealed: bytes = pyrage.encrypt(data, recipients)
    return sealed


def seal_stream(reader: IO[bytes], writer: Any, recipients: list[Any]) -> None:
    """
    Encrypt all there is to read; memory stays bounded.

    Args:
        reader: What is read.
        writer: Has `write`, and in `error` the exception that it raised: the library makes another of it.
        recipients: For whom.
    """
    try:
        pyrage.encrypt_io(reader, writer, recipients)
    except pyrage.EncryptError as exc:
        raise (writer.error or exc) from None


def open_bytes(data: bytes, identities: list[Any]) -> bytes:
    """
    Decrypt.

    Raises:
        ConfigurationError: The keys do not fit, or the data is damaged.
    """
    try:
        opened: bytes = pyrage.decrypt(data, identities)
    except (pyrage.DecryptError, OSError) as exc:
        raise ConfigurationError(_reason(exc)) from exc
    return opened


def open_stream(reader: IO[bytes], writer: IO[bytes], identities: list[Any]) -> None:
    """
    Decrypt all there is to read; memory stays bounded.

    Raises:
        ConfigurationError: The keys do not fit, or the data is damaged.
        BrokenPipeError: Nobody reads what is written.
    """
    try:
        pyrage.decrypt_io(reader, writer, identities)
    except BrokenPipeError:
        raise
    except (pyrage.DecryptError, OSError) as exc:
        raise ConfigurationError(_reason(exc)) from exc


def _reason(error: Exception) -> str:
    if "No matching keys" in str(error):
        return "the secret key is not one of those that this backup was encrypted for: give another with --identity-file"
    return f"the backup cannot be decrypted: {error}"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{path} is no key file: it is not text") from exc


def _lines(text: str) -> list[str]:
    return [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]


def _recipient(path: Path, line: str) -> Any:
    kind = pyrage.ssh if line.startswith("ssh-") else pyrage.x25519
    return _parsed(path, lambda: kind.Recipient.from_str(line), "public")


def _identity(path: Path, line: str) -> Any:
    return _parsed(path, lambda: pyrage.x25519.Identity.from_str(line), "secret")


def _parsed(path: Path, parse: Any, kind: str) -> Any:
    try:
        return parse()
    except (pyrage.RecipientError, pyrage.IdentityError) as exc:
        raise ConfigurationError(f"{path} holds something that is no {kind} key: {exc}") from exc


def _some(path: Path, keys: Iterable[T], kind: str) -> list[T]:
    found = list(keys)
    if not found:
        raise ConfigurationError(f"{path} holds no {kind} key: make a pair with `penstock backup-key`")
    return found
