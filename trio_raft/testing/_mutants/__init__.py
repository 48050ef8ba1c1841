"""Deliberate faults: each breaks one rule of the shipped code, and the simulation must notice.

A simulator that catches none of these would prove nothing.  A mutant is a patch of one function or method of the
package, for the time of a ``with`` block, in this process alone; its story says which well-known mistake it is.
``python -m trio_raft.testing mutants`` runs seeds against each until a check of its rule fails.  One that survives
means that the kit lacks a fault or an invariant.

House rule: one mistake each, as somebody could really make it, and nothing else changed.
"""

from collections.abc import Mapping

from trio_raft.testing._mutants._durability import DURABILITY
from trio_raft.testing._mutants._elections import ELECTIONS
from trio_raft.testing._mutants._mutant import Mutant
from trio_raft.testing._mutants._reads import READS
from trio_raft.testing._mutants._replication import REPLICATION
from trio_raft.testing._mutants._snapshots import SNAPSHOTS

__all__ = ["MUTANTS", "Mutant"]

MUTANTS: Mapping[str, Mutant] = {
    mutant.name: mutant for group in (ELECTIONS, REPLICATION, DURABILITY, READS, SNAPSHOTS) for mutant in group
}
"""By name, in the order in which they are run."""
