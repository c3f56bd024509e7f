"""The local exchange in a process of its own: does what standard input says.

Each line is a JSON object; an answer follows when the exchange is ready to serve the new state,
so that no subject pays for making the body.
"""

import json
import random
import sys
import uuid
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from exporter.demo.exchange import Exchange


def main() -> None:
    """Serve until standard input ends."""
    key = load_pem_public_key(Path(sys.argv[1]).read_bytes())
    assert isinstance(key, RSAPublicKey)
    chance = random.Random(4)
    count = 0

    def group(group_id: str) -> dict[str, object]:
        return {
            "id": group_id,
            "is_auto_cancel_enabled": chance.random() < 0.8,
            "contracts_limit_fp": f"{chance.randrange(1, 10_000)}.00",
            "exchange_index": chance.randrange(4),
        }

    def new_id() -> str:
        return str(uuid.UUID(int=chance.getrandbits(128), version=4))

    with Exchange() as exchange:
        sys.stdout.write(json.dumps({"base_url": exchange.base_url}) + "\n")
        sys.stdout.flush()
        for line in sys.stdin:
            order = json.loads(line)
            key_id = order["key_id"]
            groups = exchange.groups(key_id)
            if "fill" in order:
                exchange.register(key_id, key)
                groups.replace(group(new_id()) for _ in range(order["fill"]))
            else:
                ids = [each["id"] for each in groups.listing()]
                changed, gone = order["changed"], order["gone"]
                chosen = chance.sample(ids, changed + gone)
                for each in chosen[:changed]:
                    count += 1
                    groups.change(each, contracts_limit_fp=f"{10_000 + count}.00")
                for each in chosen[changed:]:
                    groups.delete(each)
                for _ in range(order["new"]):
                    groups.create(new_id(), contracts_limit=f"{chance.randrange(1, 10_000)}.00")
            size = len(groups.body())
            sys.stdout.write(json.dumps({"bytes": size}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
