"""One bound on what several users take: each has a part of its own, and they share the rest. Pure.

It counts units: bytes of memory, or connections.
"""


class Budget:
    """`limit` units for all accounts together.

    Half of them is divided equally: each account may always use its `floor`. The other half is shared by dynamic
    thresholds, as switches share their buffers (Choudhury and Hahne, 1998): an account may use as much of it as it
    leaves free. One account alone thus uses half of it, and two use a third each, so that a newcomer always finds some.

    An account tells what it uses when it asks for more, and not for each event. So `used` is as old as the last
    question of each account, and one read may exceed the bound.
    """

    __slots__ = ("_accounts", "_shared", "limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._shared = 0  # of the units that are used, those over the floors of their accounts
        self._accounts = 0

    @property
    def floor(self) -> int:
        """The units that each account may always use."""
        return self.limit // 2 // max(1, self._accounts)

    def open(self) -> "Account":
        """A new account. The floors of the others shrink."""
        self._accounts += 1
        return Account(self)

    @property
    def free_of_shared(self) -> int:
        """The units of the shared half that nobody uses. Negative while accounts use more than it since others came."""
        return self.limit - self.limit // 2 - self._shared

    def _use(self, used: int, shared: int) -> None:
        self.used += used
        self._shared += shared

    def _close(self) -> None:
        self._accounts -= 1


class Account:
    """One user of a budget."""

    __slots__ = ("_budget", "_is_open", "_shared", "used")

    def __init__(self, budget: Budget) -> None:
        self.used = 0
        self._is_open = True
        self._budget = budget
        self._shared = 0

    def use(self, used: int) -> None:
        """Tells how many units the account uses now."""
        shared = max(0, used - self._budget.floor)
        self._budget._use(used - self.used, shared - self._shared)
        self.used, self._shared = used, shared

    def allowance(self, used: int) -> int:
        """How many more units the account may use, which uses so many now.

        An account that uses nothing gets 1 at least, which stands for one event of any size, or one connection.
        """
        self.use(used)
        budget = self._budget
        more = max(0, budget.floor - used) + max(0, (budget.free_of_shared - self._shared) // 2)
        return max(min(more, budget.limit - budget.used), 0 if used else 1)

    @property
    def floor(self) -> int:
        """The units that the account may always use."""
        return self._budget.floor

    def close(self) -> None:
        """Gives the account's floor to the others. Its units count until it says that it uses none."""
        if self._is_open:
            self._is_open = False
            self._budget._close()
