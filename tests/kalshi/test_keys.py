"""Key files are read in many forms, mistakes are named, and signatures verify."""

import base64
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from kalshi_python_sync.auth import KalshiAuth

from exporter.errors import PrivateKeyError
from exporter.kalshi.keys import load_passphrase, load_private_key

if TYPE_CHECKING:
    from tests.support.servers import Keys

PASSPHRASE = b"correct horse"
MESSAGE = b"1700000000000GET/trade-api/v2/portfolio/order_groups"


def verify_rsa(keys: "Keys", signature: str, message: bytes) -> None:
    keys.rsa_private.public_key().verify(
        base64.b64decode(signature, validate=True),
        message,
        padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=hashes.SHA256().digest_size),
        hashes.SHA256(),
    )


@pytest.mark.parametrize(
    ("name", "passphrase"),
    [
        ("rsa.pem", None),
        ("rsa-pkcs1.pem", None),
        ("rsa-locked.pem", PASSPHRASE),
        ("rsa-pkcs1-locked.pem", PASSPHRASE),
        ("rsa.pem", b"not needed"),
    ],
)
def test_rsa_signatures_verify(keys: "Keys", name: str, passphrase: bytes | None) -> None:
    key = load_private_key(keys.directory / name, passphrase)
    assert key.describe() == "RSA 2048"
    verify_rsa(keys, key.sign(MESSAGE), MESSAGE)


@pytest.mark.parametrize(
    ("name", "passphrase"),
    [("ed25519.pem", None), ("ed25519-locked.pem", PASSPHRASE), ("ed25519.pem", b"not needed")],
)
def test_ed25519_signatures_verify(keys: "Keys", name: str, passphrase: bytes | None) -> None:
    key = load_private_key(keys.directory / name, passphrase)
    assert key.describe() == "Ed25519"
    signature = base64.b64decode(key.sign(MESSAGE), validate=True)
    keys.ed25519_private.public_key().verify(signature, MESSAGE)


def test_the_official_sdk_signs_the_same_message(keys: "Keys") -> None:
    headers = KalshiAuth("id", keys.rsa.read_text()).create_auth_headers(
        "GET", "https://external-api.kalshi.com/trade-api/v2/portfolio/order_groups?subaccount=0"
    )
    message = f"{headers['KALSHI-ACCESS-TIMESTAMP']}GET/trade-api/v2/portfolio/order_groups"
    verify_rsa(keys, headers["KALSHI-ACCESS-SIGNATURE"], message.encode())
    verify_rsa(keys, load_private_key(keys.rsa).sign(message.encode()), message.encode())


@pytest.mark.parametrize(
    ("name", "passphrase", "words"),
    [
        ("missing.pem", None, "cannot be read: No such file"),
        (".", None, "is a directory"),
        ("rsa-locked.pem", None, "private_key_passphrase_file"),
        ("rsa-pkcs1-locked.pem", None, "private_key_passphrase_file"),
        ("ed25519-locked.pem", None, "private_key_passphrase_file"),
        ("rsa-locked.pem", b"wrong", "does not open with the passphrase"),
        ("rsa-pkcs1-locked.pem", b"wrong", "does not open with the passphrase"),
        ("ed25519-locked.pem", b"wrong", "does not open with the passphrase"),
        ("public.pem", None, "holds a public key"),
        ("certificate.pem", None, "holds a certificate"),
        ("openssh.pem", None, "OpenSSH"),
        ("ec.pem", None, "RSA and Ed25519"),
        ("dsa.pem", None, "RSA and Ed25519"),
        ("small.pem", None, "1024 bits"),
    ],
)
def test_each_mistake_has_its_own_message(
    keys: "Keys", name: str, passphrase: bytes | None, words: str
) -> None:
    path = keys.directory / name
    with pytest.raises(PrivateKeyError) as caught:
        load_private_key(path, passphrase)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"hello", "is not in PEM"),
        (b"\x00\xff" * 100, "is not in PEM"),
        (b"ssh-rsa AAAA me@here", "holds a public key"),
        (b"x" * 70_000, "larger than 64 KiB"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "is damaged"),
        (b"-----BEGIN RSA PRIVATE KEY-----\n", "is damaged"),
    ],
)
def test_a_file_without_a_private_key_is_refused(keys: "Keys", content: bytes, words: str) -> None:
    path = keys.write("strange.pem", content)
    with pytest.raises(PrivateKeyError, match=words):
        load_private_key(path)


def test_a_file_with_several_private_keys_is_refused(keys: "Keys") -> None:
    rsa, ed25519 = keys.rsa.read_bytes(), (keys.directory / "ed25519.pem").read_bytes()
    path = keys.write("two.pem", rsa + ed25519)
    with pytest.raises(PrivateKeyError, match="holds several private keys: leave only the one"):
        load_private_key(path)
    load_private_key(keys.write("twice.pem", rsa + rsa))


def _relabelled(pem: bytes, label: str) -> bytes:
    """Return a PEM file with another label in its first and last lines."""
    _, *body, _ = pem.strip().splitlines()
    return "\n".join(
        [f"-----BEGIN {label}-----", *(line.decode() for line in body), f"-----END {label}-----"]
    ).encode()


_FORMS = {
    "literal line breaks": lambda pem: pem.replace(b"\n", b"\\n"),
    "literal line breaks in quotes": lambda pem: b'"' + pem.replace(b"\n", b"\\n") + b'"\n',
    "literal carriage returns": lambda pem: pem.replace(b"\n", b"\\r\\n"),
    "quotes": lambda pem: b"'" + pem + b"'",
    "Windows": lambda pem: pem.replace(b"\n", b"\r\n"),
    "old Macintosh": lambda pem: pem.replace(b"\n", b"\r"),
    "blank lines": lambda pem: pem.replace(b"\n", b"\n\n"),
    "indented": lambda pem: b"".join(b"    " + line + b"\n" for line in pem.splitlines()),
    "one line": lambda pem: pem.replace(b"\n", b" "),
    "a byte order mark": lambda pem: b"\xef\xbb\xbf" + pem,
    "UTF-16": lambda pem: pem.decode().encode("utf-16"),
    "UTF-16 of the other order": lambda pem: b"\xfe\xff" + pem.decode().encode("utf-16-be"),
    "UTF-16 without a mark": lambda pem: pem.decode().encode("utf-16-le"),
    "base64 of the file": base64.b64encode,
    "base64 of the file in lines": base64.encodebytes,
    "the body alone": lambda pem: b"\n".join(pem.strip().splitlines()[1:-1]),
    "the body in one line": lambda pem: b"".join(pem.strip().splitlines()[1:-1]),
    "DER": lambda pem: base64.b64decode(b"".join(pem.strip().splitlines()[1:-1])),
}


@pytest.mark.parametrize("name", ["rsa.pem", "rsa-pkcs1.pem", "ed25519.pem"])
@pytest.mark.parametrize("form", _FORMS.values(), ids=_FORMS)
def test_a_key_that_was_reformatted_on_its_way_is_read(
    keys: "Keys", name: str, form: Callable[[bytes], bytes]
) -> None:
    path = keys.write("changed.pem", form((keys.directory / name).read_bytes()))
    key = load_private_key(path)
    if name.startswith("rsa"):
        verify_rsa(keys, key.sign(MESSAGE), MESSAGE)
    else:
        signature = base64.b64decode(key.sign(MESSAGE), validate=True)
        keys.ed25519_private.public_key().verify(signature, MESSAGE)


@pytest.mark.parametrize(
    ("name", "label", "passphrase"),
    [
        ("rsa.pem", "RSA PRIVATE KEY", None),
        ("rsa-pkcs1.pem", "PRIVATE KEY", None),
        ("ed25519.pem", "RSA PRIVATE KEY", None),
        ("rsa-locked.pem", "PRIVATE KEY", PASSPHRASE),
        ("rsa-locked.pem", "RSA PRIVATE KEY", PASSPHRASE),
    ],
)
def test_a_key_under_another_formats_header_is_read(
    keys: "Keys", name: str, label: str, passphrase: bytes | None
) -> None:
    path = keys.write("other.pem", _relabelled((keys.directory / name).read_bytes(), label))
    assert load_private_key(path, passphrase).sign(MESSAGE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda pem: pem.replace(b"-----BEGIN", b"----BEGIN"), "its first line is not exactly"),
        (lambda pem: pem.replace(b"-----B", "\u2014\u2013B".encode()), "its first line is not"),
        (lambda pem: pem[: pem.index(b"-----END")], "its last line"),
        (lambda pem: pem.replace(b"END PRIVATE", b"END RSA PRIVATE"), "its last line"),
        (lambda pem: pem.replace(b"\nMII", b"\nMI*"), "line 1 after BEGIN holds a character"),
        (lambda pem: pem.replace(b"\nMII", b"\nMI"), "characters are missing"),
        (lambda pem: b"".join(pem.splitlines(True)[:5] + pem.splitlines(True)[6:]),
         "48 bytes are missing"),
    ],
)  # fmt: skip
def test_the_damage_of_a_key_is_named_without_its_contents(
    keys: "Keys", change: Callable[[bytes], bytes], words: str
) -> None:
    content = change(keys.rsa.read_bytes())
    path = keys.write("damaged.pem", content)
    with pytest.raises(PrivateKeyError, match="is damaged: ") as caught:
        load_private_key(path)
    assert words in str(caught.value)
    body = [line.decode("utf-8", "replace") for line in content.splitlines() if len(line) > 40]
    assert not any(line in str(caught.value) for line in body)


def test_a_public_key_in_another_encoding_is_named(keys: "Keys") -> None:
    public = (keys.directory / "public.pem").read_text().encode("utf-16")
    with pytest.raises(PrivateKeyError, match="holds a public key"):
        load_private_key(keys.write("public16.pem", public))


@pytest.mark.parametrize(
    "name", ["correct horse battery staple", "hunter2", "tr0ub4dor&3", "3fA9x" * 8]
)
def test_a_passphrase_in_place_of_its_files_path_is_not_repeated(tmp_path: Path, name: str) -> None:
    with pytest.raises(PrivateKeyError, match="private_key_passphrase_file is not shown") as caught:
        load_passphrase(tmp_path / name)
    assert name not in str(caught.value)


def test_advice_about_a_mounted_secret_does_not_suggest_chmod(keys: "Keys") -> None:
    path = keys.write("secret", keys.rsa.read_bytes(), 0o444)
    with pytest.raises(PrivateKeyError, match="mode 0440 with the group") as caught:
        load_private_key(path)
    assert "or mode 0400 with the user" in str(caught.value)
    assert "chmod" not in str(caught.value)


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(PrivateKeyError, match="not a regular file"):
        load_private_key(tmp_path / "pipe")


def test_an_impossible_path_is_refused() -> None:
    with pytest.raises(PrivateKeyError, match="cannot be read"):
        load_private_key(Path("a\0b"))


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o660, 0o602, 0o601])
def test_a_key_that_others_can_read_is_refused(keys: "Keys", mode: int) -> None:
    path = keys.write("open.pem", keys.rsa.read_bytes(), mode)
    with pytest.raises(PrivateKeyError, match=f"chmod 600 {path}"):
        load_private_key(path)


def test_group_readable_is_fine_only_if_root_owns_it(
    keys: "Keys", monkeypatch: pytest.MonkeyPatch
) -> None:
    path = keys.write("group.pem", keys.rsa.read_bytes(), 0o640)
    real = os.fstat
    owner = 0

    def fstat(descriptor: int) -> os.stat_result:
        fields = list(real(descriptor))
        fields[4] = owner
        return os.stat_result(fields)

    monkeypatch.setattr(os, "fstat", fstat)
    assert load_private_key(path).describe() == "RSA 2048"
    owner = 1000
    with pytest.raises(PrivateKeyError, match="chmod 600"):
        load_private_key(path)


def test_systemds_credentials_are_fine(keys: "Keys", monkeypatch: pytest.MonkeyPatch) -> None:
    path = keys.write("credential.pem", keys.rsa.read_bytes(), 0o644)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(keys.directory))
    assert load_private_key(path).describe() == "RSA 2048"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(keys.directory / "other"))
    with pytest.raises(PrivateKeyError, match="chmod 600"):
        load_private_key(path)


def test_a_damaged_rsa_key_never_signs_wrongly(keys: "Keys") -> None:
    der = keys.rsa_private.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    refused = 0
    for position in range(0, len(der), 7):
        damaged = bytearray(der)
        damaged[position] ^= 0x55
        text = base64.encodebytes(bytes(damaged))
        path = keys.write(
            "damaged.pem",
            b"-----BEGIN RSA PRIVATE KEY-----\n" + text + b"-----END RSA PRIVATE KEY-----\n",
        )
        try:
            key = load_private_key(path)
        except PrivateKeyError:
            refused += 1
        else:  # OpenSSL compensates for the damage
            verify_rsa(keys, key.sign(MESSAGE), MESSAGE)
    assert refused > 20


def test_a_key_reveals_nothing_of_itself(keys: "Keys") -> None:
    key = load_private_key(keys.rsa)
    assert repr(key) == "<SigningKey RSA 2048>"
    assert str(key) == repr(key)
    with pytest.raises((TypeError, AttributeError)):
        pickle.dumps(key)
