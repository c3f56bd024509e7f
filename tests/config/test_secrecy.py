"""No command repeats a value that could be a secret, in any form and whichever key holds it."""

import base64
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exporter.cli import main
from exporter.config.keys import ACCOUNT, POLL, SECTIONS
from exporter.config.load import load
from exporter.config.secrecy import could_be_secret, is_credential, is_key
from exporter.errors import ConfigurationError
from exporter.logs import redaction

if TYPE_CHECKING:
    from tests.conftest import KeyPair


def _forms(name: str, key: "rsa.RSAPrivateKey | Ed25519PrivateKey") -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each form in which people might paste a private key."""
    for encoding in (
        serialization.PrivateFormat.PKCS8,
        serialization.PrivateFormat.TraditionalOpenSSL,
    ):
        if encoding is not serialization.PrivateFormat.PKCS8 and name == "Ed25519":
            continue
        plain = serialization.NoEncryption()
        pem = key.private_bytes(serialization.Encoding.PEM, encoding, plain).decode()
        der = key.private_bytes(serialization.Encoding.DER, encoding, plain)
        lines = pem.splitlines()
        kind = f"{name} {str(encoding).rpartition('.')[2]}"
        yield f"{kind}: PEM", pem
        yield f"{kind}: literal line breaks", pem.replace("\n", "\\n")
        yield f"{kind}: literal line breaks in quotes", '"' + pem.replace("\n", "\\n") + '"'
        yield f"{kind}: blanks for line breaks", pem.replace("\n", " ")
        yield f"{kind}: base64 of PEM", base64.b64encode(pem.encode()).decode()
        yield f"{kind}: base64 of base64", base64.b64encode(base64.b64encode(pem.encode())).decode()
        yield f"{kind}: body", "".join(lines[1:-1])
        yield f"{kind}: body of literal lines", "\\n".join(lines[1:-1])
        yield f"{kind}: first line of the body", lines[1]
        yield f"{kind}: a line of the body", lines[len(lines) // 2]
        yield f"{kind}: base64 for URLs", base64.urlsafe_b64encode(der).decode()
        yield f"{kind}: base32", base64.b32encode(der).decode()
        yield f"{kind}: hexadecimal", der.hex()
        yield f"{kind}: hexadecimal with colons", der.hex(":")


def _secrets() -> Iterator[tuple[str, str]]:
    yield from _forms("RSA", rsa.generate_private_key(public_exponent=65537, key_size=2048))
    # A few random seeds look like words, and no test should fail for them now and then.
    seed = Random(1).randbytes(32)
    yield from _forms("Ed25519", Ed25519PrivateKey.from_private_bytes(seed))
    yield "seed in base64", base64.b64encode(seed).decode()
    yield "seed in hexadecimal", seed.hex()
    yield "a key's id", "5ec4e7ed-0000-4bad-b00b-5ec4e7edf00d"
    yield "a token", base64.urlsafe_b64encode(Random(2).randbytes(32)).decode().rstrip("=")
    yield "a token in hexadecimal", Random(3).randbytes(16).hex()
    yield "an overlong text", "all work and no play makes jack a dull boy " * 200


SECRETS = dict(_secrets())
KEYS = [
    *((section, key.name) for section, keys in SECTIONS.items() for key in keys),
    *(("accounts", key.name) for key in (*ACCOUNT, *POLL)),
    ("accounts", "private_key_flie"),
]
# A secret in the part of a URL that is meant for one is accepted, but no message may show it.
URLS = {
    "url": ("postgresql://{}@127.0.0.1:1/kalshi", "postgresql://me:{}@127.0.0.1:1/kalshi",
            "postgresql://{}/kalshi", "postgresql://me@127.0.0.1:1/kalshi?{}=1", "sqlite:///{}", "{}://x"),
    "proxy": ("http://{}@127.0.0.1:1", "http://me:{}@127.0.0.1:1", "http://{}:1", "{}"),
    "healthcheck_url": ("https://{}", "http://127.0.0.1:1/{}", "{}"),
    "base_url": ("https://{}/trade-api/v2", "http://127.0.0.1:1/{}", "{}"),
    "stream_url": ("wss://{}/trade-api/ws/v2", "ws://127.0.0.1:1/{}", "{}"),
    "listen": ("{}", "{}:9464", "127.0.0.1:{}"),
}  # fmt: skip


def _configuration(section: str, name: str, value: str, key_file: Path) -> str:
    account: dict[str, object] = {
        "name": "main",
        "base_url": "http://127.0.0.1:1/trade-api/v2",
        "key_id": "0123456789abcdef",
        "private_key_file": str(key_file),
    }
    tables: dict[str, dict[str, object]] = {"log": {"level": "ERROR"}, "accounts": account}
    table = tables.setdefault(section, {})
    if name == "environment":
        del account["base_url"]
    table[name] = value
    return "".join(
        ("[[accounts]]\n" if heading == "accounts" else f"[{heading}]\n")
        + "".join(f"{key} = {json.dumps(each)}\n" for key, each in values.items())
        for heading, values in tables.items()
    )


def _pieces(secret: str) -> set[str]:
    """Return the parts of a secret that are long enough to give it away."""
    return {
        piece
        for line in re.split(r"\\n|\s", secret)
        for piece in (line[start : start + 20] for start in range(0, max(len(line) - 19, 1), 20))
        if len(piece) >= 16 and "PRIVATE" not in piece
    }


def _loaded(config: Path, environment: Mapping[str, str]) -> tuple[str, bool]:
    """Load a configuration.

    Returns:
        The configuration's repr and True, or the text of its faults and False.
    """
    try:
        return repr(load(config, environment)), True
    except ConfigurationError as error:
        return str(error), False


def _said(config: Path, environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the output of `check --offline`."""
    # Secrets that an earlier command registered for redaction would hide a leak of this one.
    monkeypatch.setattr(redaction, "_secrets", redaction._Secrets())
    finished = CliRunner().invoke(
        main, [f"--config={config}", "check", "--offline"], env={"SECRET": None, **environment}
    )
    assert "unexpected" not in finished.output, finished.output
    return finished.output


@pytest.mark.parametrize(("section", "name"), KEYS, ids=[f"{a}.{b}" for a, b in KEYS])
def test_no_key_of_the_configuration_shows_a_secret(
    section: str, name: str, tmp_path: Path, key_pair: "KeyPair", monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = set()
    checked = set()
    for number, (form, secret) in enumerate(SECRETS.items()):
        directory = tmp_path / str(number)
        directory.mkdir()
        config = directory / "config.toml"
        for template in URLS.get(name, ("{}",)):
            for value, environment in (
                (template.format(secret), {}),
                (template.format("${SECRET}"), {"SECRET": secret}),
            ):
                text = _configuration(section, name, value, key_pair.private_key_file)
                config.write_text(text, encoding="utf-8")
                said, is_valid = _loaded(config, environment)
                # A valid configuration makes `check` run in full, which is slow, so each template
                # is checked with one secret. Postgres is left out: it would look up the host.
                if is_valid and template not in checked and "postgresql://" not in text:
                    checked.add(template)
                    said += _said(config, environment, monkeypatch)
                if any(piece in said for piece in _pieces(secret)):
                    shown.add(f"{form} in {template}: {said}")
    assert not shown


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "{} = 1",
        "'{}' = 1",
        "['{}']",
        "[poll]\n'{}' = 1",
        "[poll]\nx = {{'{}' = 1, '{}' = 2}}",
        "['{}']\n['{}']",
        "'{}'.a = 1\n['{}']",
        "[[accounts]]\n'{}' = 1",
        "[poll]\ninterval = {}",
        "[poll]\ninterval = '${{{}}}'",
        "[poll]\ninterval = '${{A{}}}'",
    ],
)
def test_no_place_in_the_file_shows_a_secret(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.toml"
    for secret in SECRETS.values():
        if "\n" in secret or "'" in secret:
            continue
        config.write_text(text.replace("{}", secret).replace("{{", "{").replace("}}", "}"))
        said = _said(config, {}, monkeypatch)
        assert not any(piece in said for piece in _pieces(secret)), said


@pytest.mark.parametrize("template", ["{}", "{}/trade-api/v2", "/home/kalshi/data/{}"])
def test_nearly_all_seeds_are_recognized_whatever_path_is_around_them(template: str) -> None:
    random = Random(1)
    seeds = [base64.b64encode(random.randbytes(32)).decode() for _ in range(1000)]
    assert sum(not is_key(template.format(seed)) for seed in seeds) <= 5


# The following are values that people really use, and that must not be taken for secrets.


@pytest.mark.parametrize(
    "path",
    [
        "kalshi.pem",
        "/etc/kalshi-exporter/kalshi.pem",
        "/run/secrets/kalshi_private_key",
        "/run/credentials/kalshi-exporter.service/kalshi.pem",
        "/nix/store/s66mzxpvicwk07gjbjfw9izjfa797vsw-kalshi-exporter-1.0/etc/kalshi.pem",
        "/var/lib/kubelet/pods/6e1d8f2a-33b4-4a2e-9d4b-1f0c2a7be9aa/volumes/key/kalshi.pem",
        "/var/lib/docker/overlay2/4f5a1c0de9f04b2c8d7e6f5a4b3c2d1e0f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c/merged/k",
        "/Users/MaryAnn/Library/Application Support/Kalshi Exporter/Keys2026/Production.pem",
        "/home/trader1/Projects/Kalshi/2026-11-26/order-groups-backup-v2/spool",
        "C0mpany/KalshiKeys/production",
        "spool-2026-11-26",
        "/home/ubuntu/KalshiData/PROD/2026/OrderGroups/spool",
        "/Volumes/DATA1/KALSHI/Exports/OrderGroups/Production2",
        "KalshiOrderGroups2026",
        "KalshiMain2026Production",
        "a952bcbe-ec3b-4b5b-b8f9-11dae589608c.pem",
    ],
)
def test_ordinary_paths_are_not_taken_for_credentials(path: str) -> None:
    assert not is_credential(path)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("[spool]\ndirectory", "directory: must be a path, in quotes; what is there now looks"),
        ("[database]\nurl = 'sqlite:///k.db'\n[metrics]\ntextfile", "textfile: must be a path,"),
        ("[[accounts]]\nname = 'a'\nenvironment = 'demo'\nkey_id = 'k'\nprivate_key_file",
         "private_key_file: must be the path of the key's file, in quotes; what is"),
    ],
)  # fmt: skip
def test_a_key_in_place_of_a_path_is_reported_as_a_key(
    place: str, words: str, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    for secret in (SECRETS["RSA PKCS8: PEM"], SECRETS["Ed25519 PKCS8: body"]):
        config.write_text(f"{place} = {json.dumps(secret)}\n", encoding="utf-8")
        assert words in _loaded(config, {})[0]


@pytest.mark.parametrize(
    "host",
    [
        "db.abcdefghijklmnopqrst.supabase.co",
        "ep-cool-darkness-a1b2c3d4.us-east-2.aws.neon.tech",
        "c9akciq32.cluster-czrs8kj4isg7.us-east-1.rds.amazonaws.com",
        "b8a5e798-d25b-4d3e-a0a8-8f5ae1b0c9d2.bkvfu0nd0m8k95k94ujg.databases.appdomain.cloud",
        "external-api.kalshi.com",
    ],
)
def test_ordinary_hosts_are_not_taken_for_keys(host: str) -> None:
    assert not is_key(host)


@pytest.mark.parametrize(
    "text",
    ["60", "LOUD", "prod", "60 seconds", "sqlite", " main", "1h30", "10.0.0.1:9464",
     "${KALSHI_PRIVATE_KEY_FILE}", "Größe 1", "64 MiB", "true", "yes", "/metrics"],
)  # fmt: skip
def test_an_ordinary_mistake_may_be_repeated(text: str) -> None:
    assert not could_be_secret(text)


@pytest.mark.parametrize("text", ["Tr0ub4dor&3", "hunter2hunter2", "p@ssw0rd!", "A1" * 8])
def test_a_password_may_not_be_repeated(text: str) -> None:
    assert could_be_secret(text)
