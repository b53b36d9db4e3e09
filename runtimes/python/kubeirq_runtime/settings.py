"""The settings of a function: the environment variables of the contract."""

import os
import sys

BACKLOG = 1024  # connections that wait in the kernel

_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class Settings:
    """The variables, parsed. Raises ValueError, which names the variable."""

    def __init__(self, environment):
        get = environment.get
        handler = get("FUNC_HANDLER") or "handler"
        module = get("MOD_NAME")
        if not module:
            module, _, handler = handler.rpartition(".")
        if not module:
            raise ValueError("MOD_NAME: the module of the handler is needed, or FUNC_HANDLER as module.function")
        self.module = module
        self.handler = handler.rpartition(".")[2]
        self.host = get("FUNC_HOST") or "0.0.0.0"
        self.port = int(_number(environment, "FUNC_PORT", 8080))
        self.code_path = get("KUBEIRQ_CODE_PATH") or os.getcwd()
        self.function_name = get("FUNC_NAME") or module
        self.timeout_seconds = _number(environment, "FUNC_TIMEOUT", 180, 0.001)
        self.runtime = get("FUNC_RUNTIME") or f"python{sys.version_info[0]}.{sys.version_info[1]}"
        self.memory_limit = get("FUNC_MEMORY_LIMIT") or "0"
        try:
            self.memory_limit_bytes = bytes_of(self.memory_limit)
        except ValueError:
            raise ValueError(f"FUNC_MEMORY_LIMIT: {self.memory_limit!r}: bytes or 128Mi is needed") from None
        self.concurrency = int(_number(environment, "FUNC_CONCURRENCY", 0))  # 0: the handler's kind decides
        self.startup = get("FUNC_STARTUP") or ""
        self.shutdown = get("FUNC_SHUTDOWN") or ""
        self.body_limit_bytes = int(_number(environment, "FUNC_BODY_LIMIT", 8 * 1024 * 1024))
        self.client_seconds = _number(environment, "FUNC_CLIENT_TIMEOUT", 30, 0.1)
        self.grace_seconds = _number(environment, "FUNC_GRACE", 30)
        self.kubeless = get("KUBEIRQ_KUBELESS") == "1"
        self.tells_failures = get("FUNC_FAILURE_DETAIL") != "0"
        self.debug_port = int(_number(environment, "KUBEIRQ_DEBUG_PORT", 0))
        if self.debug_port:
            self.timeout_seconds = 1e9  # a person may look at a breakpoint for as long as they want


def bytes_of(quantity):
    """Bytes of a Kubernetes quantity: 128Mi, 1G, 1000. Raises ValueError."""
    for unit, factor in _UNITS.items():
        if quantity.endswith(unit):
            return int(float(quantity[: -len(unit)]) * factor)
    return int(float(quantity))


def _number(environment, name, default, least=0.0):
    text = environment.get(name) or str(default)
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not least <= number < 1e10:
        raise ValueError(f"{name}: {text!r}: a number from {least:g} is needed")
    return number
