"""A small deterministic market, which acts on an account of the local exchange step by step.

The demo calls it on a timer.
"""

import random
import uuid
from collections.abc import Callable

from exporter.demo.answers import Answer, Request, Script
from exporter.demo.exchange import Exchange

_ACTIVITIES_PER_FAULT = 3
_LIMITS = (1, 5, 10, 25, 50, 100, 250, 1_000)


class Market:
    """A market that creates, changes and deletes groups, with a fault after every third step.

    The same seed gives the same steps. Activities and faults are dealt like cards, so that every
    kind is seen within twenty steps.

    Args:
        exchange: the exchange, with `key_id` registered.
        key_id: the key of the account to act on.
        seed: the seed of all random choices.
        initial_groups: how many groups to create at once.
    """

    def __init__(
        self, exchange: Exchange, key_id: str, seed: int, *, initial_groups: int = 12
    ) -> None:
        self._exchange = exchange
        self._key_id = key_id
        self._groups = exchange.groups(key_id)
        # The generator is seeded, so that a demo can be repeated; it guards no secret.
        self._random = random.Random(seed)  # noqa: S311 - see above
        self._limits: dict[str, int] = {}
        self._triggered: set[str] = set()
        self._triggers = 0
        self._steps: list[Callable[[], str]] = []
        for _ in range(initial_groups):
            self._create()

    def step(self) -> str:
        """Do one step, and return a line that describes it."""
        if not self._steps:
            self._steps = self._deal()
        return self._steps.pop()()

    def _deal(self) -> list[Callable[[], str]]:
        faults = [self._limit_rate, self._fail, self._fail_at_proxy, self._drop, self._blink]
        activities = [
            *[self._create] * 4,
            *[self._change_limit] * 6,
            *[self._trigger_or_reset] * 3,
            *[self._delete] * 2,
        ]
        self._random.shuffle(faults)
        self._random.shuffle(activities)
        dealt: list[Callable[[], str]] = []
        for fault in faults:
            dealt += [fault, *(activities.pop() for _ in range(_ACTIVITIES_PER_FAULT))]
        return dealt

    def _create(self) -> str:
        group_id = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        limit = self._random.choice(_LIMITS)
        self._limits[group_id] = limit
        self._groups.create(group_id, contracts_limit=f"{limit}.00")
        return f"group {_short(group_id)} is created with a limit of {limit} contracts"

    def _change_limit(self) -> str:
        if not self._limits:
            return self._create()
        group_id = self._any_group()
        before = self._limits[group_id]
        limit = self._random.choice([other for other in _LIMITS if other != before])
        self._limits[group_id] = limit
        self._groups.change(group_id, contracts_limit_fp=f"{limit}.00")
        return f"the limit of group {_short(group_id)} goes from {before} to {limit} contracts"

    def _trigger_or_reset(self) -> str:
        if not self._limits:
            return self._create()
        group_id = self._any_group()
        self._triggered ^= {group_id}
        if group_id in self._triggered:
            self._groups.trigger(group_id)
            self._triggers += 1
            if self._triggers % 2:
                return f"group {_short(group_id)} triggers"
            # No poll is fast enough to see this.
            self._triggered.discard(group_id)
            self._groups.reset(group_id)
            return f"group {_short(group_id)} triggers, and is reset at once"
        self._groups.reset(group_id)
        return f"group {_short(group_id)} is reset"

    def _delete(self) -> str:
        if not self._limits:
            return self._create()
        group_id = self._any_group()
        del self._limits[group_id]
        self._triggered.discard(group_id)
        self._groups.delete(group_id)
        return f"group {_short(group_id)} is deleted"

    def _any_group(self) -> str:
        return self._random.choice(list(self._limits))

    def _limit_rate(self) -> str:
        return self._disturb(Answer.rate_limited(), "429 too many requests")

    def _fail(self) -> str:
        return self._disturb(Answer.server_error(), "500 internal server error")

    def _fail_at_proxy(self) -> str:
        return self._disturb(Answer.proxy_error(), "a proxy's 503 in HTML")

    def _drop(self) -> str:
        return self._disturb(Answer(ending="reset"), "a dropped connection")

    def _blink(self) -> str:
        if not self._limits:
            return self._create()
        group_id = self._any_group()

        # The response is made when the request comes, because the groups may have changed by then.
        def answer(_: Request) -> Answer:
            return Answer(body=self._groups.body(without=group_id))

        self._exchange.script(self._key_id, answer)
        return f"group {_short(group_id)} is missing from the next response"

    def _disturb(self, answer: Script, described: str) -> str:
        # Some faults end within a poll's attempts, others outlast them.
        count = self._random.randint(1, 6)
        self._exchange.script(self._key_id, *[answer] * count)
        requests = "request gets" if count == 1 else f"{count} requests get"
        return f"the next {requests} {described}"


def _short(group_id: str) -> str:
    return group_id[:8]
