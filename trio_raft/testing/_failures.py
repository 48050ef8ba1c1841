"""How a simulation fails: one family of errors, each naming the seed that repeats it.

A run that violated an invariant, or lost a node for no injected reason, must never pass.  So what goes wrong inside
is recorded, the run is cancelled, and the error leaves at the end of the ``running_cluster`` block, whatever the block
itself did meanwhile.
"""

from trio_raft._errors import RaftError, RaftInternalError, StateMachineError, error_text, leaves

NO_NODE_FAILS = "No node fails without a reason"
"""The check whose name goes on with the error."""


class SimulationFailed(AssertionError):
    """Something that must hold did not.  ``seed`` repeats the run."""

    def __init__(self, seed: int | str, problem: str, *, check: str = "") -> None:
        super().__init__(f"seed {seed}: {problem}")
        self.seed = seed
        self.problem = problem
        self.check = check or type(self).__name__
        """What was judged: a name that is the same in each run, with the ids of rules in parentheses."""
        self.judged = True
        """False: a check came to no result, so nothing is known of the cluster."""


class InvariantViolation(SimulationFailed):
    """The cluster broke a promise: one of Raft's, or one that you added."""


class NodeFailed(SimulationFailed):
    """A node ended, or would not start, though nothing that was injected explains it.

    The node's own error is the ``__cause__``.  For a state machine that raised, ``index`` says on which entry.
    """

    def __init__(self, seed: int | str, node_id: str, error: BaseException) -> None:
        self.node_id = node_id
        self.index: int | None = None
        if isinstance(error, StateMachineError):
            self.index = error.index
            raised = _raised_by_machine(error)
            problem = (
                f"the state machine of {node_id} raised on entry {error.index} of term {error.term}: "
                f"{type(raised).__name__}: {raised}"
            )
        else:
            problem = f"{node_id} failed, and no injected fault explains it: {error_text(error)}"
        super().__init__(seed, problem, check=f"{NO_NODE_FAILS}: {_name(error)}")
        self.__cause__ = error
        # A slip in the code of whoever plays with it, a patch that fits no more, say, is no judgement of a rule.
        causes = [error, *leaves(error.__cause__ or error)]
        self.judged = not any(isinstance(cause, TypeError | AttributeError | NameError) for cause in causes)


class TooSlow(SimulationFailed):
    """A bounded wait ran out; the text says what was waited for, and how the cluster looked then."""


class Unanswered(RaftError):
    """A client gave up: no answer in time.

    ``sent`` says whether a node took the command: if so its outcome is unknown, otherwise it did not happen.
    """

    def __init__(self, client: str, what: str, *, seconds: float, sent: bool, last_answer: str) -> None:
        outcome = "the outcome is unknown" if sent else "no node took it, so nothing happened"
        super().__init__(f"{client}: no answer to {what} within {seconds:g} s: {outcome}. Last answer: {last_answer}")
        self.client = client
        self.sent = sent


def _raised_by_machine(error: StateMachineError) -> BaseException:
    """What the user's code raised: what leaves a node is made anew, from the group in which the first one was."""
    for leaf in leaves(error.__cause__ or error):
        if isinstance(leaf, StateMachineError) and leaf.__cause__ is not None:
            return leaf.__cause__
    return error.__cause__ or error


def _name(error: BaseException) -> str:
    """Its type; of an internal error that of the first cause, and in which function it was raised."""
    if not isinstance(error, RaftInternalError):
        return type(error).__name__
    cause = next(iter(leaves(error.__cause__ or error)))
    trace = cause.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" in {trace.tb_frame.f_code.co_qualname}"
    return f"{type(cause).__name__}{place}"
