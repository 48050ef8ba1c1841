"""The part of PySyncObj that its peer in the comparison uses; PySyncObj itself ships no types."""

from collections.abc import Callable
from typing import Any

class FAIL_REASON:
    SUCCESS: int

class SyncObjConf:
    def __init__(self, **settings: object) -> None: ...

class SyncObj:
    def __init__(self, own_address: str, other_addresses: list[str], conf: SyncObjConf) -> None: ...
    def isReady(self) -> bool: ...
    def getStatus(self) -> dict[str, Any]: ...

def replicated(function: Callable[..., object]) -> Callable[..., None]: ...
