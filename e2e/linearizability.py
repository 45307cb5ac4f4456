"""Is a recorded history of API calls linearizable, and did the watches tell it right?

A history is a list of Op: who called what on which key, when it was called and answered (monotonic nanoseconds), and how.
Keys are independent, so each is searched alone (Wing and Gong's algorithm in Lowe's form: take any call that may come
next, go on from the state it leads to, go back when stuck; (calls taken, state) that led nowhere are remembered).

The state of a key is None (absent) or (resourceVersion, value). A call without an answer may have taken effect at any
time from then on, or never; what the store's own history has says which, but for deletions. The state in the search is
therefore a set of possible ones.

Watches and lists are held against the store's history too: a watch tells of every change behind its start, in order, once;
a list shows the state at its resourceVersion.

Run as a program it tests itself with histories that are right and wrong.
"""
import collections
import sys

FOREVER = 1 << 62
Op = collections.namedtuple("Op", "client kind key call ret arg status rv value")
# kind: create, get, update, patch, delete. arg: the value written, or (value, base resourceVersion) of an update.
# status: the HTTP code, 0: no answer. rv, value: as answered.
Event = collections.namedtuple("Event", "type key rv value")


def step(state, op):
    """The states to which the call may lead from `state`, seeing what it saw; empty: it cannot have been next."""
    kind, status = op.kind, op.status
    if kind == "get":
        if status == 404:
            return [None] if state is None else []
        return [state] if state == (op.rv, op.value) else []
    if status == 0:  # unanswered deletion: other unanswered writes have been settled
        return [state] if state is None else [None, state]
    if kind == "create":
        if status == 201:
            return [(op.rv, op.value)] if state is None else []
        return [state] if state is not None else []
    if status == 404:
        return [None] if state is None else []
    if state is None:
        return []
    if kind == "delete":
        return [None]
    if kind == "update":
        base = op.arg[1]
        if status == 409:
            return [state] if state[0] != base else []
        return [(op.rv, op.value)] if state[0] == base and op.rv > base else []
    return [(op.rv, op.value)] if op.rv > state[0] else []  # patch


def step_all(states, op):
    out = set()
    for s in states:
        out.update(step(s, op))
    return frozenset(out)


class Node:
    __slots__ = ("op", "id", "match", "prev", "next")

    def __init__(self, op, i):
        self.op, self.id, self.match, self.prev, self.next = op, i, None, None, None


def build(ops):
    """Calls and returns in the order of their times, linked; gives the head."""
    times = []
    for i, op in enumerate(ops):
        call, ret = Node(op, i), Node(None, i)
        call.match = ret
        times += [(op.call, 0, i, call), (op.ret, 1, i, ret)]
    times.sort(key=lambda t: t[:3])
    head = last = Node(None, -1)
    for *_, node in times:
        last.next, node.prev = node, last
        last = node
    return head


def lift(node):
    for n in (node, node.match):
        n.prev.next = n.next
        if n.next:
            n.next.prev = n.prev


def unlift(node):
    for n in (node.match, node):
        n.prev.next = n
        if n.next:
            n.next.prev = n


def check_key(ops):
    """None when the calls of one key are linearizable, else the calls around the place where no order goes on."""
    head = build(ops)
    states, taken, seen, stack = frozenset([None]), 0, set(), []
    best, stuck = -1, None
    node = head.next
    while head.next:
        if node.match:
            after = step_all(states, node.op)
            bits = taken | 1 << node.id
            if after and (bits, after) not in seen:
                seen.add((bits, after))
                stack.append((node, states, taken))
                states, taken = after, bits
                lift(node)
                node = head.next
            else:
                node = node.next
            continue
        if len(stack) > best:
            best, stuck = len(stack), (node.id, [n.op for n, *_ in stack[-8:]], states)
        if not stack:
            op = ops[stuck[0]]
            return f"no order explains {op}\n  possible states then: {set(stuck[2])}\n  the calls before:\n    " + \
                "\n    ".join(map(str, stuck[1]))
        node, states, taken = stack.pop()
        unlift(node)
        node = node.next
    return None


# ---- watches

# What a watch told between two resourceVersions, connections broken in between or not: all changes in (start, end].
Segment = collections.namedtuple("Segment", "start end events")


def check_segment(name, seg, truth):
    errors, last = [], seg.start
    for e in seg.events:
        if e.rv <= last:
            errors.append(f"{name}: {e} comes after resourceVersion {last}")
        last = max(last, e.rv)
    want = [e for e in truth if seg.start < e.rv <= max(seg.end, last)]
    for told, is_so in zip(seg.events, want):
        if told != is_so:
            return errors + [f"{name} told {told}, the store has {is_so}, in ({seg.start}, {seg.end}]"]
    if len(seg.events) != len(want):
        return errors + [f"{name} told {len(seg.events)} events in ({seg.start}, {seg.end}], the store has {len(want)}"]
    return errors


def check_lists(lists, events):
    """A list shows the state at its resourceVersion: lists are (rv, {key: (rv, value)})."""
    errors, now, at = [], {}, 0
    for rv, items in sorted(lists, key=lambda x: x[0]):
        while at < len(events) and events[at].rv <= rv:
            e = events[at]
            if e.type == "DELETED":
                now.pop(e.key, None)
            else:
                now[e.key] = (e.rv, e.value)
            at += 1
        if items != now:
            odd = sorted(k for k in set(items) | set(now) if items.get(k) != now.get(k))
            errors.append(f"the list at {rv} differs from the events up to there: " +
                          ", ".join(f"{k}: list {items.get(k)}, events {now.get(k)}" for k in odd[:3]))
    return errors


def settle(ops, events):
    """Writes without an answer become what the store has of them; acknowledged ones must be there."""
    errors, out = [], []
    by_value = {e.value: e for e in events if e.type != "DELETED"}
    by_rv = {e.rv: e for e in events}
    unclaimed = collections.Counter(e.key for e in events if e.type == "DELETED")
    unclaimed.subtract(op.key for op in ops if op.kind == "delete" and op.status == 200)
    for op in ops:
        if op.kind == "get" or op.status in (404, 409):
            if op.kind != "get" or op.status:
                out.append(op)
        elif op.status:
            if op.kind == "delete":
                pass
            elif op.rv not in by_rv or by_rv[op.rv].key != op.key or by_rv[op.rv].value != op.value:
                errors.append(f"the store has nothing of {op}")
            out.append(op)
        elif op.kind == "delete":
            if unclaimed[op.key] > 0:  # else none of the unanswered ones took effect
                out.append(op._replace(ret=FOREVER))
        else:
            value = op.arg[0] if op.kind == "update" else op.arg
            if value in by_value:  # it took effect: as if answered with that, at some time
                e = by_value[value]
                out.append(op._replace(status=201 if op.kind == "create" else 200, rv=e.rv, value=value, ret=FOREVER))
    return out, errors


def check(ops, segments, lists, truth):
    """All errors of a run. segments: (name, Segment); lists: (rv, items), whose items are in `ops` as gets too; truth: the
    store's history of the keys as Events."""
    errors = [e for name, seg in segments for e in check_segment(name, seg, truth)]
    ops, more = settle(ops, truth)
    errors += more + check_lists(lists, truth)
    by_key = collections.defaultdict(list)
    for op in ops:
        by_key[op.key].append(op)
    for key, calls in sorted(by_key.items()):
        why = check_key(calls)
        if why:
            errors.append(f"key {key} ({len(calls)} calls) is not linearizable: {why}")
    return errors


# ---- tests of the checker itself

def history(text):
    """Lines "client kind call ret status rv value [base]" of one key."""
    ops = []
    for line in text.strip().splitlines():
        c, kind, call, ret, status, rv, value, *base = line.split()
        value = None if value == "-" else value
        arg = (value, int(base[0])) if base else value
        ops.append(Op(c, kind, "k", int(call), int(ret), arg, int(status), int(rv), value))
    return ops


RIGHT = {
    "one after the other": "a create 0 1 201 5 x\nb get 2 3 200 5 x\na delete 4 5 200 0 -\nb get 6 7 404 0 -",
    "a read during a write may see either": "a create 0 1 201 5 x\na patch 2 9 200 6 y\nb get 3 4 200 5 x\nc get 5 6 200 6 y",
    "of two creations one wins": "a create 0 9 201 5 x\nb create 1 8 409 0 y\nc get 10 11 200 5 x",
    "an update from an old version fails": "a create 0 1 201 5 x\na patch 2 3 200 6 y\nb update 4 5 409 0 z 5",
    "an unanswered deletion happened": "a create 0 1 201 5 x\na delete 2 3 0 0 -\nb get 4 5 200 5 x\nb get 6 7 404 0 -",
    "an unanswered deletion never happened": "a create 0 1 201 5 x\na delete 2 3 0 0 -\nb get 4 5 200 5 x",
}
WRONG = {
    "a stale read": "a create 0 1 201 5 x\na patch 2 3 200 6 y\nb get 4 5 200 5 x",
    "a read that goes back": "a create 0 1 201 5 x\na patch 2 9 200 6 y\nb get 3 4 200 6 y\nc get 5 6 200 5 x",
    "a lost update": "a create 0 1 201 5 x\na update 2 3 200 6 y 5\nb update 4 5 200 7 z 5",
    "a lost creation": "a create 0 1 201 5 x\nb get 2 3 404 0 -",
    "two creations": "a create 0 9 201 5 x\nb create 1 8 201 6 y\nc get 10 11 200 6 y",
    "a deleted key comes back": "a create 0 1 201 5 x\na delete 2 3 200 0 -\nb get 4 5 200 5 x",
    "a conflict without a reason": "a create 0 1 201 5 x\nb update 2 3 409 0 y 5",
    "a resourceVersion that goes back": "a create 0 1 201 5 x\na patch 2 3 200 4 y",
    "deleted twice": "a create 0 1 201 5 x\na delete 2 3 200 0 -\nb delete 4 5 200 0 -",
}


def selftest(report):
    for name, text in RIGHT.items():
        why = check_key([o._replace(ret=FOREVER) if o.status == 0 else o for o in history(text)])
        report("right: " + name, why is None, str(why))
    for name, text in WRONG.items():
        report("found: " + name, check_key(history(text)) is not None)
    a, b, c = Event("ADDED", "k", 1, "x"), Event("MODIFIED", "k", 2, "y"), Event("DELETED", "k", 3, "y")

    def watch(*events, start=0, end=3):
        return check_segment("w", Segment(start, end, list(events)), [a, b, c])

    report("right: a watch", not watch(a, b, c) and not watch(b, start=1, end=2))
    report("found: a lost event", watch(a, c))
    report("found: a lost last event", watch(a, b))
    report("found: an event told twice", watch(a, b, b, c))
    report("found: events out of order", watch(b, a, c))
    report("found: an event of another type", watch(a, b._replace(type="ADDED"), c))
    report("right: lists", not check_lists([(1, {"k": (1, "x")}), (2, {"k": (2, "y")}), (9, {})], [a, b, c]))
    report("found: a list that is no snapshot", check_lists([(2, {"k": (1, "x")})], [a, b, c]))
    seen = [Op("a", "create", "k", 0, 1, "x", 0, 0, None), Op("b", "get", "k", 2, 3, None, 200, 1, "x")]
    report("right: an unanswered write that the store has", not check(seen, [], [], [a]))
    report("found: an acknowledged write that the store has not", check([Op("a", "create", "k", 0, 1, "x", 201, 1, "x")], [], [], []))


if __name__ == "__main__":
    def report(name, ok, why=""):
        print("ok     " if ok else "FAILED ", name, "" if ok else why)
        report.failed += not ok
    report.failed = 0
    selftest(report)
    sys.exit(1 if report.failed else 0)
