"""Sign the requests of the floor and the peers, in the most obvious way."""

import base64
import time
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

PATH = "/trade-api/v2/portfolio/order_groups"
STREAM_PATH = "/trade-api/ws/v2"

_PADDING = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)


class Signer:
    """Signs GET requests.

    Args:
        key_file: an RSA key in PEM.
    """

    def __init__(self, key_file: str) -> None:
        key = load_pem_private_key(Path(key_file).read_bytes(), None)
        assert isinstance(key, RSAPrivateKey)
        self._key = key

    def headers(self, key_id: str, path: str = PATH) -> dict[str, str]:
        """Return the three headers of a request that is sent now."""
        timestamp = str(int(time.time() * 1000))
        signature = self._key.sign(f"{timestamp}GET{path}".encode(), _PADDING, hashes.SHA256())
        return {
            "KALSHI-ACCESS-KEY": key_id,
            "KALSHI-ACCESS-TIMESTAMP": timestamp,
            "KALSHI-ACCESS-SIGNATURE": base64.b64encode(signature).decode(),
        }
