"""Private keys and signatures: a PEM file becomes a `SigningKey`, which `session` signs with."""

import base64
import os
import stat
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from exporter.errors import PrivateKeyError

_SMALLEST_RSA_KEY = 2048  # bits
_LARGEST_FILE = 64 * 1024  # bytes; an RSA key of 16384 bits in PEM takes 13 KB

# https://docs.kalshi.com/getting_started/api_keys
_PADDING = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=padding.PSS.DIGEST_LENGTH)

_GROUP_AND_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class SigningKey:
    """A private key that signs requests, and shows nothing of itself but its kind."""

    __slots__ = ("_description", "_sign")

    def __init__(self, description: str, sign: Callable[[bytes], bytes]) -> None:
        self._description = description
        self._sign = sign

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._description}>"

    def sign(self, message: bytes) -> str:
        """The signature of `message`, in base64."""
        return base64.b64encode(self._sign(message)).decode("ascii")

    def describe(self) -> str:
        """The key's kind, such as "RSA 2048" or "Ed25519"."""
        return self._description


def load_private_key(path: Path, passphrase: bytes | None = None) -> SigningKey:
    """Reads an RSA (PKCS#1 or PKCS#8) or Ed25519 (PKCS#8) private key in PEM.

    Args:
        path: of the PEM file.
        passphrase: for an encrypted key; one that is not needed does no harm.

    Raises:
        PrivateKeyError: the file or the key cannot be used; the text names the path, what is
            wrong and what to do, and nothing of the key.
    """
    pem = _read(path, "private key")
    _refuse_what_is_no_private_key(path, pem)
    try:
        key = _parse(pem, passphrase)
    except TypeError:
        raise PrivateKeyError(
            f"{path} is encrypted: set private_key_passphrase_file to a file with its passphrase"
        ) from None
    except UnsupportedAlgorithm:
        raise PrivateKeyError(
            f"{path} holds a key of a kind, or encrypted in a way, that is not supported: "
            "use the RSA or Ed25519 key that the exchange issued"
        ) from None
    except ValueError:
        if b"ENCRYPTED" in pem:
            raise PrivateKeyError(
                f"{path} does not open with the passphrase in private_key_passphrase_file: "
                "another passphrase, or a damaged file"
            ) from None
        raise PrivateKeyError(
            f"{path} is damaged: its PEM text holds no readable private key"
        ) from None
    match key:
        case RSAPrivateKey():
            return _rsa(path, key)
        case Ed25519PrivateKey():
            return SigningKey("Ed25519", key.sign)
        case _:
            kind = type(key).__name__.removesuffix("PrivateKey")
            raise PrivateKeyError(
                f"{path} holds a {kind} key: the exchange takes RSA and Ed25519 keys"
            )


def load_passphrase(path: Path) -> bytes:
    """Read the passphrase of a private key from its file, which nobody else may read either.

    Raises:
        PrivateKeyError: the file cannot be used; one line that says why and what to do.
    """
    # A newline at the end is the editor's, not the passphrase's.
    return _read(path, "passphrase").rstrip(b"\r\n")


def _read(path: Path, kind: str) -> bytes:
    try:
        # Without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else str(error)
        raise PrivateKeyError(f"{path}, the {kind} file, cannot be read: {what}") from None
    try:
        # The file that is open is the file that is judged: a path can change its meaning.
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise PrivateKeyError(f"{path} is a directory: name the {kind} file in it")
        if not stat.S_ISREG(status.st_mode):
            raise PrivateKeyError(f"{path} is not a regular file: name the {kind} file")
        _refuse_what_others_can_read(path, status)
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise PrivateKeyError(f"{path} cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if not content.strip():
        raise PrivateKeyError(f"{path} is empty: put the {kind} there")
    if len(content) > _LARGEST_FILE:
        raise PrivateKeyError(
            f"{path} is larger than {_LARGEST_FILE // 1024} KiB: that is no {kind}"
        )
    return content


def _refuse_what_others_can_read(path: Path, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if not mode & _GROUP_AND_OTHERS:
        return
    if status.st_uid == 0 and mode & _GROUP_AND_OTHERS == stat.S_IRGRP:
        return  # how a secret is handed to a service's group: only root could open it further
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if credentials and path.resolve().is_relative_to(Path(credentials).resolve()):
        return  # systemd guards the directory itself, and shows its access list as a group's mode
    raise PrivateKeyError(f"{path} can be read by others (mode {mode:04o}): run chmod 600 {path}")


def _refuse_what_is_no_private_key(path: Path, pem: bytes) -> None:
    if b"-----BEGIN OPENSSH PRIVATE KEY-----" in pem:
        raise PrivateKeyError(
            f"{path} is in OpenSSH's own format: use the PEM file that the exchange issued"
        )
    if b"PRIVATE KEY-----" in pem:
        return
    if b"-----BEGIN CERTIFICATE" in pem:
        what = "a certificate"
    elif b"PUBLIC KEY-----" in pem or pem.lstrip().startswith((b"ssh-", b"ecdsa-")):
        what = "a public key"
    else:
        raise PrivateKeyError(
            f"{path} is not in PEM: it needs a line -----BEGIN … PRIVATE KEY-----"
        )
    raise PrivateKeyError(f"{path} holds {what}: private_key_file needs the private key")


def _parse(pem: bytes, passphrase: bytes | None) -> object:
    # OpenSSL's full check of an RSA key proves its primes to be primes: 30 ms for 2048 bits and
    # 210 ms for 4096, which cron would pay every minute to guard against a key made to deceive
    # its own owner. A key damaged by accident is found by `_rsa` in less than two.
    try:
        return load_pem_private_key(pem, passphrase, unsafe_skip_rsa_key_validation=True)
    except TypeError:
        if passphrase is None:
            raise
        return load_pem_private_key(pem, None, unsafe_skip_rsa_key_validation=True)


def _rsa(path: Path, key: RSAPrivateKey) -> SigningKey:
    if key.key_size < _SMALLEST_RSA_KEY:
        raise PrivateKeyError(
            f"{path} holds an RSA key of {key.key_size} bits: "
            f"use one of at least {_SMALLEST_RSA_KEY}"
        )

    def sign(message: bytes) -> bytes:
        return key.sign(message, _PADDING, hashes.SHA256())

    # A key whose parts do not belong together would sign, and the exchange would answer that the
    # signature is wrong, which sends the operator looking everywhere but here.
    probe = b"kalshi-exporter"
    try:
        key.public_key().verify(sign(probe), probe, _PADDING, hashes.SHA256())
    except (InvalidSignature, InternalError, ValueError):
        raise PrivateKeyError(
            f"{path} is damaged: the parts of its RSA key do not belong together"
        ) from None
    return SigningKey(f"RSA {key.key_size}", sign)
