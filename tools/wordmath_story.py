"""Story problems that are composed rather than written: somebody has some things, several events change the number, a question ends it.

The template id is the composition ("story:gain,groups_out:left"), so held-out combinations are new sequences of events or new people
for known ones.
"""
from wordmath_core import _THINGS, cap

_FOOD = {one for one, _ in _THINGS["food"]}


def _gain(c, a, t, have):
    k = c.size((2, 9), (2, 20), (5, 60), (20, 150))
    n = c.num(k)
    who = c.other(a)
    text = c.p(
        f"{a.s} {a.v('buy')} {n} more{c.p('', ' ' + t(k))}", f"{a.s} {a.v('find')} {n} more {t(k)}", f"{a.s} {a.v('get')} {n} more from {who}",
        f"{who} {'gave' if c.past else 'gives'} {a.him} {n} more", f"{who} {'gave' if c.past else 'gives'} {a.him} another {n} {t(k)}",
        f"{a.s} {a.v('receive')} {n} {t(k)} from {who}", f"{a.s} {a.v('get')} {n} more as a present", f"{a.s} {a.v('collect')} another {n}",
        f"{a.s} {a.v('add')} {n} more", f"{a.s} {a.v('bring')} {n} more {t(k)} from the {c.p('store', 'market', 'shop', 'fair')}",
        f"{a.s} {a.v('win')} {n} more at the fair", f"{a.s} {a.v('get')} {n} {t(k)} from {who}", f"{a.s} {a.v('make')} {n} more",
        f"{a.s} {a.v('buy')} another {n} {t(k)}", f"{a.s} {a.v('find')} {n} {t(k)} in the {c.p('park', 'garden', 'street', 'attic', 'kitchen')}",
        f"{who} {'bought' if c.past else 'buys'} {a.him} {n} {t(k)}", f"{a.s} {a.v('borrow')} {n} {t(k)} from {who}", f"{a.s} {a.v('pick')} up {n} more")
    return text, lambda: c.do(f"Add {k}", have, "+", k)


def _lose(c, a, t, have):
    k = c.n(1, have - 1) if have < 15 or c.maybe(0.4) else c.n(2, max(3, have // 2))
    n = c.num(k)
    who = c.other(a)
    if c.before == "lose" and c.maybe(0.4):          # lost before: "2 more" goes on losing
        text = c.p(f"{a.s} {a.v('lose')} {n} more", f"{a.s} {a.v('give')} away {n} more", f"{a.s} {a.v('sell')} another {n}", f"{a.s} {a.v('give')} {n} more to {who}", f"{n} more {('was' if k == 1 else 'were') if c.past else ('is' if k == 1 else 'are')} lost",
                   f"{a.s} {a.v('lose')} another {n}{c.p('', ' ' + t(k))}", f"{a.s} {a.v('use')} {n} more", f"{who} {'took' if c.past else 'takes'} {n} more away", f"{a.s} {a.v('sell')} {n} more")
        return text, lambda: c.do(f"Take away {k}", have, "-", k)
    text = c.p(
        f"{a.s} {a.v('give')} {n} to {who}", f"{a.s} {a.v('give')} {who} {n} {t(k)}", f"{a.s} {a.v('give')} away {n}{c.p('', ' ' + t(k))}",
        f"{a.s} {a.v('lose')} {n}{c.p('', ' ' + t(k), ' of them')}", f"{a.s} {a.v('sell')} {n}{c.p('', ' ' + t(k), ' of them')}",
        f"{a.s} {a.v('use')} {n}{c.p('', ' ' + t(k), ' of them')}", f"{who} {'took' if c.past else 'takes'} {n}{c.p('', ' of them', ' away')}",
        f"{n} {t(k)} {('was' if k == 1 else 'were') if c.past else ('is' if k == 1 else 'are')} {c.p('lost', 'broken', 'stolen', 'given away', 'sold')}",
        f"{a.s} {a.v('donate')} {n}{c.p('', ' ' + t(k))}", f"{a.s} {a.v('throw')} away {n}{c.p('', ' ' + t(k), ' of them')}",
        f"{a.s} {a.v('give')} {n} of {c.p('them', 'these', 'the ' + t(2))} to {who}",
        f"{a.s} {a.v('lose')} {n} more" if c.maybe(0.5) else f"{who} {'borrowed' if c.past else 'borrows'} {n}{c.p('', ' ' + t(k))}",
        f"{a.s} {a.v('hand')} {who} {n}{c.p('', ' of them', ' ' + t(k))}", f"{a.s} {a.v('send')} {n} to {who}",
        f"{a.s} {a.v('break')} {n}{c.p('', ' of them')}", f"{who} {'stole' if c.past else 'steals'} {n}{c.p('', ' of them', ' ' + t(k))}",
        f"{who} {'ate' if c.past else 'eats'} {n}{c.p('', ' of them', ' ' + t(k))}" if t.food else f"{a.s} {a.v('drop')} {n} and cannot find them",
        f"{a.s} {a.v('eat')} {n}{c.p('', ' of them')}" if t.food else f"{a.s} {a.v('trade')} {n} away")
    return text, lambda: c.do(f"Take away {k}", have, "-", k)


def _groups_in(c, a, t, have):
    k, m = c.n(2, c.p(6, 9, 12)), c.size((2, 9), (2, 12), (5, 25))
    box = c.container()
    each = c.p("each", "each", "in each", f"in each {box.one}", "apiece")
    if c.maybe(0.2):                                 # two givers, or a span of weekdays
        m1 = c.num(m)
        r1, r2 = c.rng.sample(["mom", "dad", "aunt", "uncle", "grandma", "grandpa", "sister", "brother"], 2)
        days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
        i = c.n(0, 3)
        if c.maybe():
            k, text = 2, c.p(f"{a.s} {a.v('get')} {m1} {t(m)} each from {a.his} {r1} and {r2}", f"{a.his} {r1} and {r2} each {'gave' if c.past else 'give'} {a.him} {m1} {t(m)}",
                             f"{a.s} {a.v('get')} {m1} more from {a.his} {r1} and {m1} more from {a.his} {r2}")
        else:
            k = min(k, 7 - i)
            text = c.p(f"{a.s} {a.v(c.p('buy', 'get', 'find', 'collect'))} {m1} more each day from {days[i]} to {days[i + k - 1]}", f"each day from {days[i]} to {days[i + k - 1]}, {a.s} {a.v('get')} {m1} more {t(m)}")
        label = f"{k} times {m}"
    elif c.maybe(0.25):
        m1 = c.num(m)
        text = c.p(f"{c.num(k)} {c.p('friends', 'cousins', 'neighbors', 'classmates')} each {'gave' if c.past else 'give'} {a.him} {m1} {t(m)}",
                   f"{a.s} {a.v('get')} {m1} {t(m)} from each of {c.num(k)} {c.p('friends', 'cousins', 'neighbors', 'people')}",
                   f"{a.s} {a.v(c.p('buy', 'collect', 'find'))} {m1} more {t(m)} every day for {c.num(k)} days")
        label = f"{k} times {m}"
    else:
        text = c.p(f"{a.s} {a.v(c.p('buy', 'buy', 'get', 'find', 'receive', 'purchase'))} {c.num(k)} {c.p('', 'more ')}{box.many} "
                   f"{c.p('with', 'of', 'containing')} {c.num(m)} {t(m)} {each}",
                   f"{a.s} {a.v('buy')} {c.num(k)} {box.many} of {t(2)}, {c.p('each with', 'and each ' + box.one + ' has', 'each containing')} "
                   f"{c.num(m)} {t(m)}",
                   f"{a.s} {a.v('get')} {c.num(k)} {box.many} of {t(2)} {c.p('with ' + c.num(m) + ' ' + t(m) + ' in each', 'holding ' + c.num(m) + ' each')}")
        label = f"{k} times {m}"
    return text, lambda: c.do(f"Add {k * m}", have, "+", c.do(label, k, "*", m))


def _groups_out(c, a, t, have):
    k = c.n(2, 9)
    if have < 2 * k:
        return None
    m = c.n(1, max(1, min(20, have // k)))
    if k * m > have:
        return None
    people = c.p("friends", "cousins", "neighbors", "classmates", "children", "people", "kids")
    box = c.container()
    text = c.p(f"{a.s} {a.v('give')} {c.num(m)} {t(m)} to each of {a.his} {c.num(k)} {people}", f"{a.s} {a.v('give')} {c.num(k)} {people} {c.num(m)} {t(m)} each",
               f"{a.s} {a.v('give')} {c.num(m)} to each of {c.num(k)} {people}", f"{a.s} {a.v('sell')} {c.num(k)} {box.many} with {c.num(m)} {t(m)} each",
               f"{c.num(k)} {people} {'took' if c.past else 'take'} {c.num(m)} {t(m)} each", f"{a.s} {a.v('use')} {c.num(m)} {t(m)} a day for {c.num(k)} days",
               f"{a.s} {a.v('sell')} {c.num(m)} {t(m)} to each of {c.num(k)} customers")
    return text, lambda: c.do(f"Take away {k * m}", have, "-", c.do(f"{k} times {m}", k, "*", m))


def _double(c, a, t, have):
    r = c.p(2, 2, 2, 3)
    times = {2: "twice", 3: "three times"}[r]
    if r == 2 and c.maybe(0.6):
        text = c.p(f"{a.s} {a.v('double')} {c.p('the number', 'the number of ' + t(2), a.his + ' collection')}",
                   f"the number of {t(2)} {'doubled' if c.past else 'doubles'}")
        return text, lambda: c.do("Double it", have, "*", 2)
    text = f"{a.s} {a.v('buy')} {times} as many {t(2)} as {a.he} already {'had' if c.past else a.has}"
    def run():
        new = c.do(f"{cap(times)} as many", have, "*", r)
        return c.do(f"Add {new}", have, "+", new)
    return text, run


def _fraction(c, a, t, have):
    choices = [d for d in (2, 2, 2, 3, 4, 5) if have % d == 0 and have > d]
    if not choices:
        return None
    d = c.rng.choice(choices)
    name = {2: c.p("half", "half"), 3: c.p("a third", "one third", "1/3"), 4: c.p("a quarter", "one fourth", "1/4", "25%"),
            5: c.p("a fifth", "one fifth", "20%", "1/5")}[d]
    if d == 2:
        name = c.p("half", "half", "1/2", "50%")
    who = c.other(a)
    of = c.p("of them", f"of {a.his} {t(2)}", f"of the {t(2)}")
    text = c.p(f"{a.s} {a.v('give')} {name} {of} to {who}", f"{a.s} {a.v(c.p('sell', 'lose', 'use', 'donate'))} {name} {of}",
               f"{a.s} {a.v('give')} {who} {name} {of}", f"{a.s} {a.v('eat' if t.food else 'hand')} {name} {of}{'' if t.food else ' to ' + who}")
    label = {2: "Half", 3: "A third", 4: "A quarter", 5: "A fifth"}[d]
    return text, lambda: c.do(f"Take away {have // d}", have, "-", c.do(label, have, "/", d))


_EVENTS = {"gain": _gain, "lose": _lose, "groups_in": _groups_in, "groups_out": _groups_out, "double": _double, "part_out": _fraction}
_WEIGHTED = ("gain", "gain", "gain", "lose", "lose", "lose", "lose", "groups_in", "groups_in", "groups_out", "groups_out", "double", "part_out", "part_out")


def _start(c, a, t):
    """Opening sentence; returns (text, number)."""
    if c.maybe(0.15):
        k, m = c.n(2, 9), c.n(2, 12)
        box = c.container()
        verb = a.v("have")
        text = c.p(f"{a.s} {verb} {c.num(k)} {box.many} {c.p('with', 'of')} {c.num(m)} {t(m)} {c.p('each', 'in each')}.",
                   f"{a.s} {verb} {c.num(k)} {box.many} of {t(2)}. {c.p('Each', 'Every')} {box.one} {'had' if c.past else 'has'} {c.num(m)} {t(m)}.")
        return "start_groups", text, lambda: c.do(f"{k} times {m}", k, "*", m), k * m
    n = c.size((3, 12), (8, 30), (10, 60), (20, 99), (60, 400))
    num = c.num(n)
    text = c.p(f"{a.s} {a.v('have')} {num} {t(n)}.", f"{a.s} {a.v('have')} {num} {t(n)}.", f"{a.s} {a.v('start')} with {num} {t(n)}.",
               f"{a.s} {a.v('start')} the {c.p('day', 'week', 'morning')} with {num} {t(n)}.", f"{a.s} {a.v('buy')} {num} {t(n)}.",
               f"{a.s} {a.v('have')} {num} {t(n)} in a {c.container().one}.", f"{a.s} {a.v(c.p('collect', 'find', 'get', 'gather', 'count', 'own'))} {num} {t(n)}.",
               f"{a.s} {a.v('have')} a collection of {num} {t(n)}.",
               f"There {'were' if c.past else 'are'} {num} {t(n)} in {a.name if a.third else 'my'}{chr(39) + 's' if a.third else ''} {c.container().one}.",
               f"{a.s} {a.v(c.p('make', 'pack', 'bring', 'take', 'receive'))} {num} {t(n)}.")
    def run():
        c.note("Start", f"{n}")
        return n
    return "start", text, run, n


def _ends(c, a, t, have, events):
    """Question and closing step; returns (id, question, run, answer, final) or None."""
    kind = c.p(*["left"] * 9, "share", "price", "more", "packs")
    lab, has = a.lab, a.has
    does = "do" if not a.third else "does"
    did = "did" if not a.third else "did"
    if kind == "left":
        down = events[-1] in ("lose", "groups_out", "part_out")
        word = c.p("left", "left", "now", "remaining", "in the end") if down else c.p("now", "now", "in total", "altogether", "in all", "in the end")
        q = c.p(f"How many {t(2)} {does} {a.he if c.maybe() else a.name} have {word}?", f"How many {t(2)} {does} {a.name} have {word}?",
                f"How many {t(2)} {'are left' if down else 'are there now'}?", f"How many {'does' if a.third else 'do'} {a.he} have {word}?",
                f"How many {t(2)} {'did' if c.past else does} {a.he} have {c.p('at the end', 'in the end', 'after that')}?",
                f"What is the number of {t(2)} {a.he} {has} now?")
        return "left", q, None, have, f"{lab} {has} {have} {t(have)}{' left' if down else ' now'}."
    if kind == "share":
        ks = [k for k in range(2, 13) if have % k == 0 and have // k > 1]
        if not ks:
            return None
        k = c.rng.choice(ks)
        box = c.container()
        if c.maybe():
            q = c.p(f"{cap(a.he)} {a.v('put')} {c.p('them', 'all of them', 'the ' + t(2))} equally into {c.num(k)} {box.many}. How many {t(2)} are in each {box.one}?",
                    f"If {a.he} {a.v('put')} them in {c.num(k)} equal {box.many}, how many {t(2)} will be in each one?")
            return "share", q, lambda: c.do(f"Split into {k}", have, "/", k), have // k, f"there are {have // k} {t(have // k)} in each {box.one}."
        q = c.p(f"{cap(a.he)} {a.v('share')} {c.p('the rest', 'them all', 'all of them')} equally among {c.num(k)} friends. How many {t(2)} does each friend get?",
                f"Then {a.he} {a.v('divide')} them equally between {c.num(k)} friends. How many does each friend get?")
        return "share", q, lambda: c.do(f"Split into {k}", have, "/", k), have // k, f"each friend gets {have // k} {t(have // k)}."
    if kind == "price":
        if have > 150:
            return None
        p = c.n(2, 12)
        q = c.p(f"{cap(a.he)} {a.v('sell')} {c.p('all of them', 'the rest', 'them all')} for {c.usd(p)} each. How much money {did} {a.he} {c.p('make', 'get', 'earn')}?",
                f"If {a.he} {'sold' if c.past else a.now('sell')} {c.p('all of them', 'the rest')} for {c.usd(p)} each, how much money {'would' if c.past else 'will'} {a.he} make?")
        return "price", q, lambda: c.do("Sell all", have, "*", p), have * p, f"{lab} {'makes' if a.third else 'make'} {c.ans_money(str(have * p))}."
    if kind == "more":
        goal = have + c.n(2, 60)
        q = c.p(f"How many more {t(2)} {does} {a.he} need to have {goal}?", f"{cap(a.he)} {a.v('want')} to have {goal} {t(2)}. How many more {does} {a.he} need?",
                f"How many more must {a.he} get to reach {goal}?")
        return "more", q, lambda: c.do(f"Still needed", goal, "-", have), goal - have, f"{lab} {'needs' if a.third else 'need'} {goal - have} more {t(goal - have)}."
    ms = [m for m in range(2, 13) if have % m == 0 and have // m > 1]
    if not ms:
        return None
    m = c.rng.choice(ms)
    box = c.container()
    q = c.p(f"{cap(a.he)} {a.v('pack')} them in {box.many} of {c.num(m)}. How many {box.many} {does} {a.he} need?",
            f"If each {box.one} holds {c.num(m)} {t(2)}, how many {box.many} can {a.he} fill?")
    return "packs", q, lambda: c.do(f"{cap(box.many)} of {m}", have, "/", m), have // m, f"{lab} {'needs' if a.third else 'need'} {have // m} {box.one if have // m == 1 else box.many}."


def _join(c, parts):
    """Events as sentences: apart, or two in one with 'and then'."""
    out, i = [], 0
    while i < len(parts):
        lead = "" if i == 0 else c.p("", "", "", "Then ", "After that, ", "Later, ", "Next, ", "The next day, ", "Later that day, ")
        text = lead + (parts[i] if lead else cap(parts[i]))
        if i + 1 < len(parts) and c.maybe(0.45):
            text += c.p(" and then ", ", and then ", " and ", ", then ", ", and ") + parts[i + 1]
            i += 1
        out.append(text + ".")
        i += 1
    return out


def story(c):
    """One composed problem; None when a drawn composition has no whole-number continuation."""
    a = c.person()
    t = c.thing()
    t.food = c.maybe(0.3) and t.one in _FOOD
    sid, opening, first, have = _start(c, a, t)
    runs, texts, ids = [first], [], []
    for _ in range(c.p(1, 1, 2, 2, 2, 3, 3, 4)):
        kind = c.p(*_WEIGHTED)
        if ids and kind == ids[-1] == "double" or have > 700 and kind == "double":
            return None
        if kind in ("lose", "groups_out") and have < 3:
            return None
        c.before = ids[-1] if ids else None
        made = _EVENTS[kind](c, a, t, have)
        if made is None:
            return None
        text, run = made
        steps = c.steps
        c.steps = []
        have = run()                                 # dry run for the number; the real steps are made below, in order
        runs.append(list(c.steps))
        c.steps = steps
        if have < 1 or have > 2000:
            return None
        texts.append(text)
        ids.append(kind)
    end = _ends(c, a, t, have, ids)
    if end is None:
        return None
    eid, ask, last, answer, final = end
    first()
    for r in runs[1:]:
        c.steps += r
    if last:
        last()
    if len(texts) == 1 and c.maybe(0.3) and opening.endswith("."):
        body = [opening[:-1] + c.p(" and ", ", then ", " and then ") + texts[0] + "."]
    else:
        body = [cap(opening)] + _join(c, texts)
    if eid == "left" and c.maybe(0.12):              # the question first
        body = [ask[:-1] + c.p(f" if {a.he} starts like this: ", "? ") .rstrip()] + body
        if not body[0].endswith((":", "?")):
            body[0] += "?"
    elif eid == "left" and c.maybe(0.12):            # the last event inside the question: "..., how many are left?"
        body[-1] = body[-1][:-1] + ". " + ask if c.maybe(0.3) else body[-1][:-1] + "; " + ask[0].lower() + ask[1:]
        if body[-1].count("?") == 0:
            body.append(ask)
    else:
        body.append(ask)
    body[0] = cap(body[0])
    return c.done(f"story:{sid},{','.join(ids)}:{eid}", body, answer, final)

