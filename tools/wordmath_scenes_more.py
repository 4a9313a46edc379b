"""Written scenes, part four: things in places, unknown changes, chains told in any order, numbers, sports, growth, and the wordings that
people use most when they make up a problem themselves."""
from wordmath_core import cap
from wordmath_scenes import _s, scene

_PLACES = [("parking lot", ("cars", "trucks", "vans"), ("arrive", "drive in", "come", "park there"), ("leave", "drive away", "drive off")),
           ("pond", ("ducks", "frogs", "fish", "swans"), ("come", "arrive", "join them", "jump in"), ("leave", "swim away", "go away")),
           ("tree", ("birds", "squirrels", "monkeys", "owls"), ("join them", "come", "land there", "arrive"), ("leave", "go away", "disappear")),
           ("room", ("people", "children", "students", "guests"), ("come in", "enter", "arrive", "join them"), ("leave", "go out", "go home")),
           ("zoo", ("monkeys", "lions", "animals", "penguins", "bears"), ("are born", "arrive", "are brought in"), ("escape", "are sold", "run away", "are moved to another zoo")),
           ("server room", ("computers", "machines"), ("are installed", "are added", "are brought in"), ("are removed", "break", "are taken out")),
           ("shelf", ("books", "cups", "boxes", "toys"), ("are added", "are put there", "are placed on it"), ("are taken", "are removed", "fall down")),
           ("farm", ("cows", "sheep", "horses", "chickens", "goats"), ("are born", "are bought", "arrive"), ("are sold", "run away", "die")),
           ("park", ("trees", "benches", "children", "dogs"), ("are added", "arrive", "come"), ("are removed", "leave", "disappear")),
           ("jar", ("candies", "coins", "cookies", "marbles"), ("are added", "are put in", "are dropped in"), ("are taken", "are removed", "are taken out")),
           ("station", ("trains", "people", "buses"), ("arrive", "come"), ("leave", "depart")), ("harbor", ("boats", "ships"), ("arrive", "come in"), ("leave", "sail away")),
           ("class", ("students", "children", "pupils"), ("join", "arrive"), ("leave", "go home")), ("field", ("cows", "rabbits", "players", "sheep"), ("come", "arrive"), ("leave", "run away")),
           ("basket", ("apples", "eggs", "balls", "pears"), ("are added", "are put in"), ("are taken", "are eaten" , "are removed", "fall out")),
           ("garden", ("flowers", "trees", "plants", "bees"), ("are planted", "are added"), ("are cut", "die", "are removed")), ("hotel", ("guests", "people"), ("check in", "arrive"), ("check out", "leave")),
           ("box", ("pencils", "toys", "crayons", "chocolates"), ("are added", "are put in"), ("are taken", "are removed", "are lost")), ("library", ("books", "readers"), ("arrive", "are added"), ("leave", "are removed")),
           ("store", ("shirts", "bikes", "phones", "customers"), ("arrive", "are delivered"), ("are sold", "leave", "are stolen")), ("party", ("guests", "people", "children"), ("come", "arrive"), ("leave", "go home"))]
_PAST = {"arrive": "arrived", "drive": "drove", "come": "came", "park": "parked", "leave": "left", "join": "joined", "jump": "jumped", "swim": "swam", "go": "went", "land": "landed", "enter": "entered",
         "are": "were", "escape": "escaped", "run": "ran", "break": "broke", "fall": "fell", "die": "died", "depart": "departed", "sail": "sailed", "check": "checked", "disappear": "disappeared"}
_ONE = {"are": "is", "go": "goes", "die": "dies", "were": "was"}


def _verb(c, n, phrase):
    head, _, rest = phrase.partition(" ")
    if c.past:
        head = _PAST[head]
        head = "was" if head == "were" and n == 1 else head
    elif n == 1:
        head = _ONE.get(head, head + "s")
    return f"{head} {rest}".strip()


@scene(7)
def place_story(c):
    where, kinds, come, go = c.rng.choice(_PLACES)
    kind = c.rng.choice(kinds)
    inn = "on" if where in ("shelf",) else "at" if where in ("station", "party") else "in"
    was = "were" if c.past else "are"
    n = c.size((2, 15), (5, 60), (20, 200))
    ids = []
    art = c.p("a", "the")
    if len(kinds) > 1 and c.maybe(0.15):
        other = c.rng.choice([k for k in kinds if k != kind])
        m = c.n(2, 40)
        body = [c.p(f"There {was} {c.num(n)} {kind} and {c.num(m)} {other} {inn} {art} {where}.", f"{cap(art)} {where} {'had' if c.past else 'has'} {c.num(n)} {kind} and {c.num(m)} {other}.")]
        have = c.do("All", n, "+", m)
        kind = {"animals": "animals", "people": "people"}.get(kind, "animals" if where in ("zoo", "farm", "pond", "tree", "field") else "people" if where in ("room", "class", "hotel", "party") else "things")
        ids.append("two")
    else:
        body = [c.p(f"There {was} {c.num(n)} {kind} {inn} {art} {where}.", f"{cap(art)} {where} {'had' if c.past else 'has'} {c.num(n)} {kind}.", f"{cap(c.num(n))} {kind} {was} {inn} {art} {where}.")]
        c.note("Start", str(n))
        have = n
    for _ in range(c.p(1, 1, 2, 2, 3)):
        w = c.p("", "", f"{kind} ")
        if c.maybe(0.18):
            k, m = c.n(2, 7), c.n(2, 12)
            e = c.rng.choice(come)
            per = c.p("day", "hour", "week", "minute")
            days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
            if k < 7 and c.maybe(0.4):
                i = c.n(0, 7 - k)
                span = f"from {days[i]} to {days[i + k - 1]}"
                body.append(c.p(f"{cap(c.num(m))} more {w}{_verb(c, m, e)} each day{c.p('', ',')} {span}.", f"Each day {span}, {c.num(m)} more {w}{_verb(c, m, e)}.", f"{cap(span)}, {c.num(m)} more {w}{_verb(c, m, e)} every day."))
            else:
                body.append(c.p(f"{cap(c.num(m))} more {w}{_verb(c, m, e)} every {per} for {c.num(k)} {per}s.", f"Every {per} for {c.num(k)} {per}s, {c.num(m)} more {w}{_verb(c, m, e)}."))
            have = c.do(f"Add {k * m}", have, "+", c.do(f"{k} times {m}", k, "*", m))
            ids.append("rate")
        elif c.maybe() and have > 2:
            if have % 2 == 0 and c.maybe(0.15):
                body.append(f"Half of {c.p('them', 'the ' + kind)} {_verb(c, 2, c.rng.choice(go))}.")
                have = c.do(f"Take away {have // 2}", have, "-", c.do("Half", have, "/", 2))
                ids.append("half")
                continue
            k = c.n(1, have - 1)
            body.append(cap(c.p("", "", "Then ", "Later, ", "After an hour, ") + f"{c.num(k)} {c.p('', 'of them ', w, 'of the ' + kind + ' ')}{_verb(c, k, c.rng.choice(go))}."))
            have = c.do(f"Take away {k}", have, "-", k)
            ids.append("out")
        else:
            k = c.size((1, 12), (5, 90))
            body.append(cap(c.p("", "", "Then ", "Later, ", "Soon ") + f"{c.num(k)} {c.p('more', 'more', 'other')} {w}{_verb(c, k, c.rng.choice(come))}."))
            have = c.do(f"Add {k}", have, "+", k)
            ids.append("in")
    c.names += [where, str(n)]
    ask = c.p(f"How many {kind} are {inn} the {where} now?", f"How many {kind} are there now?", f"How many {kind} are {c.p('left', 'still there')}?" if ids[-1] in ("out", "half") else f"How many {kind} are there {c.p('now', 'in total', 'altogether', 'in all')}?",
              f"How many {kind} {was} there {c.p('in the end', 'at the end')}?")
    if len(body) == 2 and c.maybe(0.3):
        a, b = body[0].rstrip("."), body[1].rstrip(".")
        return c.done(f"place:{','.join(ids)}", f"If {a[0].lower() + a[1:]} and {b[0].lower() + b[1:]}, {ask[0].lower() + ask[1:]}", have, f"there {'is' if have == 1 else 'are'} {have} {kind}.")
    return c.done(f"place:{','.join(ids)}", body + [ask], have, f"there {'is' if have == 1 else 'are'} {have} {kind}.")


@scene(3)
def unknown_change(c):
    if c.maybe(0.3):
        where, kinds, come, go = c.rng.choice(_PLACES)
        kind = c.rng.choice(kinds)
        n, m = c.size((3, 20), (10, 120)), c.size((3, 20), (10, 120))
        if n == m:
            return None
        c.names += [where, str(n)]
        verb = c.rng.choice(come if m > n else go)
        r = c.do("Change", max(n, m), "-", min(n, m))
        if m > n and c.maybe(0.35):
            who, verb, done = c.p(("Workers", "plant", "planted"), ("Some workers", "add", "added"), ("The owners", "put in", "put in"), ("Volunteers", "bring", "brought"))
            return c.done("unknown_workers", [f"There are {c.num(n)} {kind} in {c.p('a', 'the')} {where}.", c.p(f"{who} will {verb} {c.p('more ', '')}{kind} {c.p('today', 'there', 'tomorrow')}.", f"{who} {verb} some {kind} today."), c.p(f"After {c.p('they are done', 'that')}, there will be {c.num(m)}{c.p('', ' ' + kind)}.", f"When they are finished, there are {c.num(m)} {kind}."),
                          c.p(f"How many {kind} did {c.p('they', 'the workers')} {verb}{c.p('', ' today')}?", f"How many {kind} will they {verb}?")], r, f"the number is {r}.")
        return c.done(f"unknown_place{m > n:d}", [f"There {'were' if c.past else 'are'} {c.num(n)} {kind} in {c.p('a', 'the')} {where}.", c.p(f"Some {c.p('more ', '') if m > n else ''}{kind} {_verb(c, 2, verb)}, and now there are {c.num(m)}.", f"After some {kind} {_verb(c, 2, verb)}, there {'were' if c.past else 'are'} {c.num(m)} {kind}."),
                      f"How many {kind} {_verb(c, 2, verb)}?"], r, f"the number is {r}.")
    a, t = c.person(), c.thing()
    n, m = c.size((3, 30), (10, 150)), c.size((3, 30), (10, 150))
    if n == m:
        return None
    who = c.other(a)
    if m < n:
        verb = c.p("give", "sell", "lose", "use", "eat")
        to = f" {c.p('to', 'to')} {who}" if verb in ("give", "sell") else ""
        body = c.p(f"{a.s} {a.v('have')} {c.num(n)} {t.many}. {a.s} {a.v(verb)} some {c.p(t.many, 'of them')}{to}. Now {a.he} {a.has} {c.num(m)}{c.p('', ' ' + t.many, ' left')}.", f"{a.s} {'had' if c.past else a.has} {c.num(n)} {t.many}. After {a.he} {a.v(verb)} some{to}, {a.he} {a.has} {c.num(m)} left.")
        r = c.do("Change", n, "-", m)
        return c.done("unknown_out", [body, c.p(f"How many {t.many} {a.does} {a.he} {verb}{c.p('', to)}?", f"How many {a.does} {a.he} {verb}{to}?")], r, f"the number is {r}.")
    verb = c.p("get", "buy", "find", "collect", "make")
    body = c.p(f"{a.s} {a.v('have')} {c.num(n)} {t.many}. {a.s} {a.v(verb)} some more. Now {a.he} {a.has} {c.num(m)}{c.p('', ' ' + t.many)}.", f"{a.s} {'had' if c.past else a.has} {c.num(n)} {t.many}. After {a.he} {a.v(verb)} some more, {a.he} {a.has} {c.num(m)}.")
    r = c.do("Change", m, "-", n)
    return c.done("unknown_in", [body, c.p(f"How many {t.many} {a.does} {a.he} {verb}?", f"How many more {a.does} {a.he} {verb}?")], r, f"the number is {r}.")


@scene(3)
def need_more(c):
    a, t = c.person(), c.thing()
    n = c.size((5, 30), (20, 200))
    m = c.n(1, n - 1)
    body = c.p(f"{a.s} {a.v('need')} {c.num(n)} {t.many}. {a.s} already {a.v('have')} {c.num(m)}.", f"{a.s} {a.v('want')} to {c.p('make', 'collect', 'buy', 'sell')} {c.num(n)} {t.many}. So far {a.he} {a.has} {c.num(m)}.", f"{a.s} {a.v('have')} {c.num(m)} {t(m)} but {a.v('need')} {c.num(n)}.")
    r = c.do("Still needed", n, "-", m)
    return c.done("need_more", [body, c.p(f"How many more {t.many} {'does' if a.third else 'do'} {a.he} need?", f"How many more {'does' if a.third else 'do'} {a.he} need?", f"How many {t.many} are missing?")], r, f"{a.lab} {'needs' if a.third else 'need'} {r} more {t(r)}.")


@scene(4)
def periods(c):
    """Amounts in two or three periods, the later told from the earlier one, then a sum."""
    a, t = c.person(), c.thing()
    verb = c.p("sell", "bake", "pick", "make", "find", "collect", "buy", "catch", "plant", "wash", "deliver", "eat", "paint", "read", "write", "see")
    P = c.p(("in April", "in May", "in June"), ("yesterday", "today", None), ("in the morning", "in the afternoon", "in the evening"), ("on Saturday", "on Sunday", None), ("last week", "this week", None), ("in the first week", "in the second week", "in the third week"),
            ("on Monday", "on Tuesday", "on Wednesday"), ("in January", "in February", "in March"), ("on day one", "on day two", "on day three"), ("last year", "this year", None))
    n = c.size((2, 20), (10, 99), (50, 300))
    first = f"{a.s} {a.v(verb)} {c.num(n)} {t(n)} {P[0]}" if c.maybe(0.7) else f"{cap(P[0])}, {a.s} {a.v(verb)} {c.num(n)} {t(n)}"
    kind = c.p("half", "twice", "times", "more", "fewer", "plain")
    if kind == "half":
        if n % 2:
            return None
        rel, m = f"half as many{c.p('', ' ' + t.many)}", (n, "/", 2)
    elif kind in ("twice", "times"):
        k = 2 if kind == "twice" else c.n(3, 5)
        rel, m = f"{c.p('twice', 'two times', 'double') if k == 2 else c.p(str(k), {3: 'three', 4: 'four', 5: 'five'}[k]) + ' times'} as many{c.p('', ' ' + t.many)}".replace("double as many", "twice as many"), (n, "*", k)
    elif kind == "more":
        d = c.n(1, 50)
        rel, m = f"{c.num(d)} more{c.p(' than ' + P[0], ' than that')}", (n, "+", d)
    elif kind == "fewer":
        d = c.n(1, n - 1)
        rel, m = f"{c.num(d)} {c.p('fewer', 'less')} than {c.p(P[0], 'that')}", (n, "-", d)
    else:
        d = c.size((2, 30), (10, 150))
        rel, m = f"{c.num(d)}{c.p('', ' ' + t(d), ' more')}", None
    then = c.p(f"{a.he} {a.v(verb)} {rel} {P[1]}", f"{P[1]}, {a.he} {a.v(verb)} {rel}" if not P[1].startswith(("today",)) else f"today {a.he} {a.v(verb)} {rel}")
    if kind == "more" and "than" in rel or kind == "fewer":
        then = f"{P[1]} {a.he} {a.v(verb)} {rel}"
    body = c.p([first + ".", cap(then) + "."], [f"{first}, and {'then ' if c.maybe() else ''}{then}."])
    m = c.do(f"Second", *m) if m else d
    s = c.do("Together", n, "+", m)
    if P[2] and c.maybe(0.3):
        e = c.size((2, 30), (10, 90))
        body.append(f"{cap(P[2])} {a.he} {a.v(verb)} {c.num(e)}{c.p('', ' ' + t(e))}.")
        s = c.do("All three", s, "+", e)
        kind += "3"
    ask = c.p(f"How many {t.many} {a.does} {a.he} {verb} {c.p('in total', 'altogether', 'in all', 'all together')}?", f"How many {t.many} is that {c.p('in total', 'altogether', 'in all')}?", f"What is the total number of {t.many}?", f"How many {t.many} {a.does} {a.he} {verb} {c.p('altogether', 'in total')}{'' if P[2] and '3' in kind else ' ' + P[0] + ' and ' + P[1] if c.maybe(0.4) else ''}?")
    return c.done(f"periods_{kind}", body + [ask], s, f"that is {s} {t(s)} in total.")


@scene(4)
def chain_any(c):
    """Three people, two relations, told in any order; the base number may come last."""
    a, b, e, t = c.person(False, False), c.person(False, False), c.person(False, False), c.thing()
    n = c.size((2, 12), (5, 40), (20, 99))
    def rel(x):
        kind = c.p("times", "more", "fewer", "half")
        if kind == "times":
            k = c.n(2, 5)
            return (x, "*", k), (c.p("twice", "two times", "double") if k == 2 else c.p(f"{k} times", {3: "three", 4: "four", 5: "five"}[k] + " times")) + " as many {t}as"
        if kind == "more":
            d = c.n(1, 40)
            return (x, "+", d), f"{c.num(d)} more {{t}}than"
        if kind == "half":
            return None if x % 2 else ((x, "/", 2), "half as many {t}as")
        if x < 3:
            return None
        d = c.n(1, x - 1)
        return (x, "-", d), f"{c.num(d)} {c.p('fewer', 'less')} {{t}}than"
    r1 = rel(n)
    if not r1:
        return None
    m = c.do(b.lab, *r1[0])
    r2 = rel(m)
    if not r2 or m > 500:
        return None
    w = c.do(e.lab, *r2[0])
    s1 = f"{a.name} {a.v('have')} {c.num(n)} {t(n)}"
    s2 = f"{b.name} {b.v('have')} {r1[1].format(t=t.many + ' ')} {a.name}".replace("double as", "twice as").replace("  ", " ")
    s3 = f"{e.name} {e.v('have')} {r2[1].format(t=c.p('', t.many + ' '))} {b.name}".replace("double as", "twice as").replace("  ", " ")
    order = [s1, s2, s3]
    if c.maybe(0.6):
        c.rng.shuffle(order)
    r = c.rng.random()
    if r < 0.4:
        last, tid, ans = f"how many {t.many} {'did' if c.past else 'does'} {e.name} have", "chain_any", w
        final = f"{e.lab} has {w} {t(w)}."
    else:
        u = c.do("First two", n, "+", m)
        ans = c.do("All three", u, "+", w)
        last, tid = f"how many {t.many} do {c.p('they', 'they all', f'{a.name}, {b.name}, and {e.name}')} have {c.p('together', 'altogether', 'in total', 'in all')}", "chain_any_sum"
        final = f"together they have {ans} {t(ans)}."
    if order[-1] == s1 and c.maybe():
        return c.done(tid, [x + "." for x in order[:2]] + [cap(last) + f" if {s1}?"], ans, final)
    return c.done(tid, [x + "." for x in order] + [cap(last) + "?"], ans, final)


@scene(2)
def pool_use(c):
    a, b, t = c.person(False), c.person(False, False), c.thing()
    n, m = c.n(2, 90), c.n(2, 90)
    k = c.n(1, n + m - 1)
    u = c.do("Together", n, "+", m)
    r = c.do("Left", u, "-", k)
    other = c.p(b.name, f"{a.his} {c.p('sister', 'brother', 'friend', 'cousin')}")
    they = "they" if a.third else "we"
    body = f"{a.s} {a.v('have')} {c.num(n)} {t(n)} and {other} {'had' if c.past else 'has'} {c.num(m)}. "
    use = c.p(("use", "used"), ("sell", "sold"), ("lose", "lost"), ("give away", "gave away"), ("eat", "ate"))[c.past]
    ask = f"how many {t.many} do {they} have left{c.p('', ' in total', ' altogether', ' together')}?"
    text = c.p(body + f"{cap(they)} {use} {c.num(k)}{c.p('', ' of them', ' ' + t(k))}. {cap(ask)}", body + f"If {they} {use} {c.num(k)}, {ask}", body + f"Together {they} {use} {c.num(k)}. {cap(ask)}")
    return c.done("pool_use", text, r, f"{'they' if a.third else 'you'} have {r} {t(r)} left.")


@scene(2)
def afford(c):
    a, t = c.person(), c.thing()
    p, k = c.n(2, 15), c.n(2, 12)
    e = c.n(1, p - 1) if c.maybe(0.4) else 0
    m = p * k + e
    body = c.p(f"{a.s} {a.v('have')} {c.usd(m)}. {c.p('One', 'A', 'Each')} {t.one} costs {c.usd(p)}.", f"{t.many} cost {c.usd(p)} each. {a.s} {a.v('have')} {c.usd(m)}.")
    c.do("Divide", m, "/", p)
    if e and c.maybe(0.4):
        return c.done("afford_rest", [cap(body), c.p(f"{a.s} {a.v('buy')} as many as possible. How much money is left?", f"How much money is left if {a.he} {a.now('buy')} as many as possible?")], e, f"{c.ans_money(str(e))} {'is' if e == 1 else 'are'} left.")
    return c.done(f"afford{bool(e):d}", [cap(body), c.p(f"How many {t.many} can {a.he} buy?", f"How many {t.many} can {a.he} buy with {a.his} money?", f"How many can {a.he} afford?")], k, f"{a.lab} can buy {k} {t(k)}.")


@scene(2)
def number_puzzle(c):
    n, d, k = c.n(1, 99), c.n(1, 50), c.n(2, 9)
    c.names += ["number", str(n) + str(d)]
    kind = c.p("more", "less", "think+", "think-", "think*", "two")
    if kind == "more":
        r = c.do("Work", n, "+", d)
        return c.done("puzzle_more", c.p(f"What number is {d} more than {n}?", f"Which number is {d} greater than {n}?", f"What is {d} more than {n}?", f"Add {d} to {n}.", f"Increase {n} by {d}."), r, f"the number is {r}.")
    if kind == "less":
        if d > n:
            return None
        r = c.do("Work", n, "-", d)
        return c.done("puzzle_less", c.p(f"What number is {d} less than {n}?", f"Which number is {d} smaller than {n}?", f"What is {d} less than {n}?", f"Decrease {n} by {d}."), r, f"the number is {r}.")
    pre = c.p("I think of a number. ", "Think of a number. ", "There is a number. ", "I have a secret number. ")
    if kind == "think+":
        r = c.do("Back", n + d, "-", d)
        return c.done("puzzle_plus", pre + c.p(f"If I add {d}, I get {n + d}. What is the number?", f"{d} more than it is {n + d}. What is the number?"), r, f"the number is {r}.")
    if kind == "think-":
        r = c.do("Back", n, "+", d)
        return c.done("puzzle_minus", pre + c.p(f"If I subtract {d}, I get {n}. What is the number?", f"I take away {d} and get {n}. What is my number?"), r, f"the number is {r}.")
    if kind == "think*":
        r = c.do("Back", n * k, "/", k)
        return c.done("puzzle_times", pre + c.p(f"If I multiply it by {k}, I get {n * k}. What is the number?", f"{k} times the number is {n * k}. What is it?"), r, f"the number is {r}.")
    if d >= n:
        return None
    r = c.do("Back", n, "-", d)
    return c.done("puzzle_sum", c.p(f"The sum of two numbers is {n}. One of them is {d}. What is the other?", f"Two numbers add up to {n}. One is {d}. What is the other number?"), r, f"the number is {r}.")


@scene(2)
def per_period(c):
    """A daily or weekly amount over a longer unit: days in weeks, weeks in a year, months in a year."""
    a = c.person()
    n = c.n(1, 12)
    what, verb, unit = c.p(("cups of food", "use", "cups of food"), ("glasses of water", "drink", "glasses of water"), ("pages", "read", "pages"), ("miles", "run", "miles"), ("letters", "write", "letters"), ("eggs", "eat", "eggs"),
                           ("hours", "work", "hours"), ("songs", "practice", "songs"), ("pictures", "draw", "pictures"), ("apples", "eat", "apples"), ("cookies", "bake", "cookies"), ("emails", "write", "emails"))
    small, big, k = c.p(("day", "week", 7), ("day", "week", 7), ("month", "year", 12), ("week", "year", 52), ("hour", "day", 24))
    many = c.n(1, 6) if big == "week" else c.p(1, 1, 2)
    span = (c.p(f"in {c.num(many)} {big}s", f"over {c.num(many)} {big}s") if many > 1 else c.p(f"in a {big}", f"in one {big}", f"a {big}", f"per {big}"))
    animal = c.p("dog", "cat", "horse", "baby", "machine")
    use = c.maybe(0.2) and what == "cups of food"
    body = f"A {animal} {'ate' if c.past else 'eats'} {c.num(n)} {what} {c.p('a', 'per', 'every', 'each')} {small}." if use else f"{a.s} {a.v(verb)} {c.num(n)} {what} {c.p('a', 'per', 'every', 'each')} {small}."
    if use:
        c.people, c.names = [], [animal, str(n)]
    r = c.do(f"1 {big} is {k} {small}s", many, "*", k) if many > 1 else k
    s = c.do("Total", r, "*", n)
    who = "it" if use else a.he
    does = "did" if c.past else "does" if use or a.third else "do"
    return c.done(f"per_{small}_{big}", [body, c.p(f"How many {what} is that {span}?", f"How many {what} {does} {who} {'eat' if use else verb} {span}?")], s, f"that is {s} {what}.")


@scene()
def letters(c):
    a = c.person()
    p, k, t, w = c.n(2, 6), c.n(2, 6), c.n(1, 3), c.p(2, 3, 4, 5, 52)
    times = {1: "once", 2: "twice", 3: "three times"}[t]
    span = "a year" if w == 52 else f"in {c.num(w)} weeks"
    u = c.do("One time", p, "*", k)
    v = c.do("A week", u, "*", t) if t > 1 else u
    r = c.do(f"{w} weeks", v, "*", w)
    body = c.p(f"{a.s} {a.v('write')} a {p}-page letter to {c.num(k)} {c.p('', 'different ')}friends {times} a week.", f"{times.capitalize()} a week, {a.s} {a.v('write')} {c.num(k)} letters of {c.num(p)} pages each.")
    return c.done("letters", [body, f"How many pages {a.does} {a.he} write {span}?"], r, f"that is {r} pages.")


@scene(2)
def book(c):
    a = c.person()
    x = c.n(5, 40)
    k = c.p(2, 2, 3)
    times = {2: "twice", 3: "three times"}[k]
    y = c.do("Today", x, "*", k)
    u = c.do("Read so far", x, "+", y)
    n = u + 2 * c.n(5, 60)
    r = c.do("Left", n, "-", u)
    opening = c.p(f"{a.s} {c.p('is', 'was') if a.third else 'am'} reading a {n}-page book.", f"{a.s} {a.v('read')} a book of {n} pages.", f"A book has {n} pages.")
    body = f"{c.p('Yesterday', 'On the first day')} {a.name} read {c.num(x)} pages and {c.p('today', 'on the second day')} {times} as many{c.p('', ' pages')}."
    if c.maybe():
        h = c.do("Half", r, "/", 2)
        return c.done("book_half", [opening, body, c.p(f"Tomorrow {a.he} {a.now('want')} to read half of the remaining pages. How many pages is that?", f"If {a.he} {a.now('want')} to read half of the remaining pages tomorrow, how many pages should {a.he} read?")], h, f"that is {h} pages.")
    return c.done("book_left", [opening, body, c.p("How many pages are left?", f"How many pages {'does' if a.third else 'do'} {a.he} still have to read?")], r, f"{r} pages are left.")


@scene(2)
def game_score(c):
    n, m = c.n(3, 99), c.n(3, 99)
    if n <= m:
        return None
    A, B = c.rng.sample(["the Lions", "the Tigers", "the Bears", "the Eagles", "the red team", "the blue team", "team A", "team B", "our team", "their team", "the Sharks"], 2)
    c.names += [A, str(n)]
    if c.maybe():
        r = c.do("Difference", n, "-", m)
        return c.done("score_diff", [cap(f"{A} {'scored' if c.past else 'score'} {n} points and {B} {'scored' if c.past else 'score'} {m}{c.p('', ' points')}."), c.p(f"By how many points did {A} win?", f"How many more points did {A} score?", "What is the difference?")], r, f"the difference is {r} point{_s(r)}.")
    k = c.n(2, 40)
    u = c.do("First two", n, "+", m)
    r = c.do("All three", u, "+", k)
    return c.done("score_sum", [cap(f"{A} {'scored' if c.past else 'score'} {n} points in the first game, {m} in the second and {k} in the third."), c.p("How many points is that in total?", f"How many points did {A} score altogether?")], r, f"that is {r} points in total.")


@scene(2)
def commute(c):
    a = c.person()
    d, n = c.n(1, 15), c.n(2, 10)
    unit = c.p("miles", "kilometers", "km", "blocks")
    u = c.do("There and back", d, "*", 2)
    r = c.do(f"In {n} days", u, "*", n)
    where = c.p("school", "work", "the library", "the pool", "the park")
    return c.done("commute", [c.p(f"{a.s} {a.v(c.p('walk', 'drive', 'ride'))} {c.num(d)} {unit} to {where} and the same way back every day.", f"It is {c.num(d)} {unit} from {a.name if a.third else 'my'}{chr(39) + 's' if a.third else ''} home to {where}. {a.s} {a.v('go')} there and back every day."), c.p(f"How many {unit} is that in {c.num(n)} days?", f"How far {a.does} {a.he} travel in {c.num(n)} days?")], r, f"that is {r} {unit}.")


@scene(2)
def growth(c):
    a = c.person()
    h, g, n = c.n(5, 90), c.n(2, 15), c.n(2, 12)
    unit, per = c.p("centimeters", "inches", "cm"), c.p("week", "month", "year", "day")
    if c.maybe():
        what = c.p("plant", "tree", "sunflower", "puppy", "bamboo")
        c.people, c.names = [], [what, str(h)]
        u = c.do("Growth", g, "*", n)
        r = c.do("Height", h, "+", u)
        return c.done("growth", [f"A {what} is {h} {unit} tall and grows {c.num(g)} {unit} {c.p('every', 'each', 'a', 'per')} {per}.", c.p(f"How tall is it after {c.num(n)} {per}s?", f"How tall will it be in {c.num(n)} {per}s?")], r, f"it is {r} {unit} tall.")
    u = c.do("Gone", g, "*", n)
    r = c.do("Left", u + h, "-", u)
    c.people, c.names = [], ["candle", str(h)]
    return c.done("burning", [f"A candle is {u + h} {unit} long. It burns down {c.num(g)} {unit} every hour.", c.p(f"How long is it after {c.num(n)} hours?", f"How many {unit} are left after {c.num(n)} hours?")], r, f"it is {r} {unit} long.")


@scene(2)
def net_saving(c):
    a = c.person()
    e, s, n = c.n(10, 90), c.n(2, 60), c.n(2, 12)
    if s >= e:
        return None
    per = c.p("day", "week", "month")
    u = c.do(f"Saved each {per}", e, "-", s)
    r = c.do(f"In {n} {per}s", u, "*", n)
    return c.done("net_saving", [f"{a.s} {a.v('earn')} {c.usd(e)} {c.p('a', 'per', 'every')} {per} and {a.v('spend')} {c.usd(s)}{c.p('', ' of it', ' each ' + per)}.", c.p(f"How much {c.p('money ', '')}{'does' if a.third else 'do'} {a.he} save in {c.num(n)} {per}s?", f"How much {'does' if a.third else 'do'} {a.he} have after {c.num(n)} {per}s?")], r, f"{a.lab} {'saves' if a.third else 'save'} {c.ans_money(str(r))}.")


@scene(2)
def revenue(c):
    a, t = c.person(), c.thing()
    k, p = c.n(3, 60), c.n(2, 15)
    cost = c.n(1, max(1, k * p - 1))
    u = c.do("Sales", k, "*", p)
    r = c.do("Profit", u, "-", cost)
    return c.done("revenue", [c.p(f"{a.s} {a.v('sell')} {c.num(k)} {t(k)} for {c.usd(p)} each. {c.p('The materials cost', 'It cost')} {c.usd(cost)}{c.p('', ' to make them')}.", f"{a.s} {a.v('spend')} {c.usd(cost)} on materials to make {t.many}. {a.s} {a.v('sell')} {c.num(k)} of them at {c.usd(p)} each."), c.p("What is the profit?", f"How much profit {a.does} {a.he} make?", f"How much money {a.does} {a.he} make after costs?")], r, f"the profit is {c.ans_money(str(r))}.")


@scene(2)
def everyone_gets(c):
    b, g, k = c.n(2, 30), c.n(2, 30), c.n(2, 9)
    t = c.thing()
    c.names += ["children", f"{b}/{g}"]
    u = c.do("Children", b, "+", g)
    r = c.do("All", u, "*", k)
    one, two = c.p(("boys", "girls"), ("adults", "children"), ("men", "women"), ("boys", "girls"))
    return c.done("everyone_gets", [c.p(f"There are {c.num(b)} {one} and {c.num(g)} {two} {c.p('in a class', 'at a party', 'on a trip', 'in a group')}.", f"{cap(c.num(b))} {one} and {c.num(g)} {two} come to a party."), c.p(f"Each of them gets {c.num(k)} {t.many}.", f"Everyone gets {c.num(k)} {t.many}.", f"Each person brings {c.num(k)} {t.many}."), c.p(f"How many {t.many} are {c.p('needed', 'there')}{c.p('', ' in total')}?", f"How many {t.many} is that altogether?")], r, f"that is {r} {t(r)}.")


@scene(2)
def legs_one(c):
    k = c.n(2, 60)
    what, p, part = c.p(("dogs", 4, "legs"), ("cats", 4, "legs"), ("cows", 4, "legs"), ("horses", 4, "legs"), ("birds", 2, "legs"), ("chickens", 2, "legs"), ("spiders", 8, "legs"), ("ants", 6, "legs"), ("bees", 6, "legs"), ("cars", 4, "wheels"), ("bikes", 2, "wheels"), ("bicycles", 2, "wheels"),
                        ("tricycles", 3, "wheels"), ("people", 2, "hands"), ("children", 10, "fingers"), ("hands", 5, "fingers"), ("triangles", 3, "sides"), ("squares", 4, "sides"), ("people", 2, "eyes"), ("pigs", 4, "legs"), ("sheep", 4, "legs"), ("octopuses", 8, "arms"))
    c.names += [what, str(k)]
    r = c.do(f"{p} {part} each", k, "*", p)
    if c.maybe(0.25):
        r2 = c.do(f"{p} {part} each", r, "/", p)
        c.steps = c.steps[1:]
        return c.done("legs_back", f"{cap(c.p('Some', 'The'))} {what} have {r} {part} in total. How many {what} are there?", k, f"there are {k} {what}.")
    return c.done("legs_one", c.p(f"How many {part} do {c.num(k)} {what} have{c.p('', ' in total', ' altogether')}?", f"There are {c.num(k)} {what}. How many {part} do they have?", f"How many {part} are there on {c.num(k)} {what}?"), r, f"{k} {what} have {r} {part}.")


@scene(2)
def floors(c):
    a = c.person(i=False)
    n, u, d = c.n(1, 20), c.n(1, 20), c.n(1, 15)
    if n + u - d < 1:
        return None
    x = c.do("Up", n, "+", u)
    r = c.do("Down", x, "-", d)
    return c.done("floors", [c.p(f"{a.s} {'was' if c.past else 'is'} on floor {n}. {a.s} {a.v('go')} up {c.num(u)} floors and then down {c.num(d)} floors.", f"An elevator starts on floor {n} with {a.name} in it. It goes up {c.num(u)} floors and down {c.num(d)}."), c.p(f"On which floor is {a.he} now?", f"What floor is {a.he} on?")], r, f"{a.lab} is on floor {r}.")


@scene(2)
def two_stage_total(c):
    """More than one amount a unit, times the units: 'each kit has 3 bolts and 5 screws'."""
    a, x, y, box = c.person(), c.thing(), c.thing(), c.container()
    i, j, k = c.n(1, 12), c.n(1, 12), c.n(2, 15)
    u = c.do(f"In one {box.one}", i, "+", j)
    r = c.do("All", u, "*", k)
    return c.done("kits", [f"Each {box.one} {c.p('has', 'holds', 'contains')} {c.num(i)} {x(i)} and {c.num(j)} {y(j)}.", f"{a.s} {a.v(c.p('have', 'buy', 'get'))} {c.num(k)} {box.many}.", c.p("How many things is that in total?", f"How many {x.many} and {y.many} are there altogether?", f"How many {x.many} and {y.many} {'does' if a.third else 'do'} {a.he} have in total?")], r, f"that is {r} things in total.")


@scene(2)
def half_that(c):
    n = 2 * c.n(1, 60)
    what, unit, x, y = c.p(("robe", "bolts", "blue fiber", "white fiber"), ("cake", "cups", "flour", "sugar"), ("drink", "liters", "water", "juice"), ("wall", "cans", "white paint", "blue paint"), ("soup", "bowls", "water", "milk"), ("dress", "meters", "red cloth", "black cloth"), ("salad", "kilograms", "tomatoes", "onions"))
    c.names += [what, str(n)]
    k = c.p("half", "half", "twice")
    m = c.do(cap(y), n, *(("/", 2) if k == "half" else ("*", 2)))
    r = c.do("Together", n, "+", m)
    return c.done(f"half_that_{k}", [f"A {what} {c.p('takes', 'needs', 'uses')} {c.num(n)} {unit} of {x} and {k} that much {y}.", c.p(f"How many {unit} {c.p('in total ', '')}does it {c.p('take', 'need')}?", f"How many {unit} is that in total?", f"How many {unit} are needed altogether?")], r, f"that is {r} {unit} in total.")


@scene(2)
def students_groups(c):
    k, m = c.n(2, 12), c.n(2, 30)
    who = c.p("students", "children", "players", "people", "campers", "scouts")
    grp = c.p("group", "team", "row", "tent", "table")
    c.names += [who, f"{k}/{m}"]
    if c.maybe():
        r = c.do("Each", k * m, "/", k)
        return c.done("groups_size", [c.p(f"{k * m} {who} are divided into {c.num(k)} equal {grp}s.", f"There are {k * m} {who}. They split into {c.num(k)} equal {grp}s."), c.p(f"How many {who} are in each {grp}?", f"How many {who} are there per {grp}?")], r, f"each {grp} has {r} {who}.")
    r = c.do(f"{cap(grp)}s", k * m, "/", m)
    return c.done("groups_count", [c.p(f"There are {k * m} {who}. Each {grp} has {c.num(m)} {who}.", f"{k * m} {who} sit in {grp}s of {c.num(m)}."), f"How many {grp}s are there?"], r, f"there are {r} {grp}s.")


@scene()
def part_hour(c):
    a = c.person()
    w = 60 * c.n(1, 2) if c.maybe(0.1) else 12 * c.n(1, 5)
    m = c.p(10, 15, 20, 30, 40, 45, 50, 90, 120)
    if w * m % 60 or w > 60:
        return None
    u = c.do("Per hour times minutes", w, "*", m)
    r = c.do("60 minutes an hour", u, "/", 60)
    return c.done("part_hour", [f"{a.s} {a.v('earn')} {c.usd(w)} {c.p('an', 'per')} hour{c.p('', ' for babysitting', ' for mowing lawns')}.", f"{c.p('Yesterday', 'Today', 'On Monday')} {a.he} {a.v('work')} {m} minutes.", f"How much {a.does} {a.he} earn?"], r, f"{a.lab} {'earns' if a.third else 'earn'} {c.ans_money(str(r))}.")


@scene(2)
def class_costs(c):
    k, p = c.n(5, 40), c.n(2, 15)
    cost = c.n(1, k * p - 1)
    c.names += ["trip", f"{k}/{p}"]
    u = c.do("Collected", k, "*", p)
    r = c.do("Left", u, "-", cost)
    return c.done("class_costs", [f"{cap(c.num(k))} {c.p('students', 'friends', 'children')} {'paid' if c.past else 'pay'} {c.usd(p)} each for a {c.p('trip', 'party', 'picnic')}.", f"The {c.p('bus', 'food', 'room')} {'cost' if c.past else 'costs'} {c.usd(cost)}.", c.p("How much money is left?", "How much is left over?")], r, f"{c.ans_money(str(r))} {'is' if r == 1 else 'are'} left.")
