"""The rules of Raft, pure: what a server may do, given what it knows.

Figure 2 of the paper ("In Search of an Understandable Consensus Algorithm", extended version, 2014) fits on
one page; this package is that page, taken apart.  Everything here is synchronous.  No rule waits, reads a
clock, draws a random number, or touches a file or a stream: time and chance come in as arguments, and what
must happen outside goes out as a return value.  So a rule either has happened or it has not; nobody ever sees
half of one.

Reading order, each module standing on those before it::

    log.py               the entries: which term stands where, what is still in memory
    configuration.py     who votes, and what a majority of them agrees on
    progress.py          one follower as its leader sees it
    state.py             the box with term, vote, role and commit index; the table of legal transitions
    request_vote.py      the life of a vote: make the request, answer it, count the replies
    append_entries.py    the life of an append: make the request, answer it, digest the reply, commit
    install_snapshot.py  the life of a snapshot on its way: accept it, install it, digest the reply; cut the log
    reads.py             numbered rounds of heartbeats that prove to a leader that it still leads
    bootstrap.py         what comes before all of that: the members settle who they are

House rule: a rule that is asked to break a promise raises.  What a *peer* sent wrong is a ``ValueError`` of
its own kind (``BadRequest``, ``BadReply``, ``BadRound``), and the caller drops that peer's connection; what
*this server* was about to do wrong is an ``AssertionError``, and the node stops rather than lose somebody's
data.  These checks are ``raise`` statements, so that ``python -O`` removes none of them.

"Dissertation" means Diego Ongaro's "Consensus: Bridging Theory and Practice" (2014).
"""
