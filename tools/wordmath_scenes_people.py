"""Written scenes, part two: people compared, ages, sharing and packing."""
from wordmath_core import cap
from wordmath_scenes import _s, scene

# --- comparing ---------------------------------------------------------------------------------------------------------------------

@scene(4)
def compare(c):
    """A has n; B more, fewer, or a multiple; then B, the sum, or the difference."""
    a, b, t = c.person(roles=False), c.person(roles=False, i=False), c.thing()
    n = c.size((2, 15), (5, 60), (20, 200))
    kind = c.p("more", "fewer", "twice", "times", "half")
    has = lambda who: who.v("have")
    if kind == "more":
        d = c.n(1, 60)
        m, rel, step = n + d, f"{c.num(d)} more {t.many} than", (n, "+", d)
    elif kind == "fewer":
        if n < 3:
            return None
        d = c.n(1, n - 1)
        m, rel, step = n - d, f"{c.num(d)} {c.p('fewer', 'less')} {t.many} than", (n, "-", d)
    elif kind == "half":
        if n % 2:
            return None
        m, rel, step = n // 2, f"half as many {t.many} as", (n, "/", 2)
    else:
        k = 2 if kind == "twice" else c.n(3, 6)
        m, rel, step = n * k, (f"{c.p('twice', 'two times')} as many {t.many} as" if k == 2 else f"{c.p(str(k), ['three', 'four', 'five', 'six'][k - 3])} times as many {t.many} as"), (n, "*", k)
    than = a.name if a.third else c.p("me", "I do")
    s1 = f"{a.name} {has(a)} {c.num(n)} {t(n)}"
    s2 = f"{b.name} {has(b)} {rel} {than}"
    body = c.p([f"{s1}.", f"{s2}."], [f"{s1} and {s2}."], [f"{s2}.", f"{s1}."], [f"{s1}, while {s2}."])
    mb = c.do(b.lab, *step)
    r = c.rng.random()
    if r < 0.4:
        return c.done(f"compare_{kind}", body + [f"How many {t.many} {'did' if c.past else 'does'} {b.name} have?"], mb, f"{b.lab} has {mb} {t(mb)}.")
    if r < 0.8:
        s = c.do("Together", n, "+", mb)
        we = f"{a.name} and {b.name}" if a.third else f"{b.name} and I"
        return c.done(f"compare_{kind}_sum", body + [c.p(f"How many {t.many} do they have {c.p('together', 'altogether', 'in total', 'in all')}?" if a.third else f"How many {t.many} do we have {c.p('together', 'in total')}?",
                      f"How many {t.many} do {we} have {c.p('together', 'altogether', 'in total')}?")], s, f"together {'they' if a.third else 'you'} have {s} {t(s)}.")
    if kind in ("more", "fewer"):
        x = c.n(2, 30)
        s = c.do(f"Then {b.lab} gets {x}", mb, "+", x)
        return c.done(f"compare_{kind}_then", body + [f"Then {b.name} {b.v(c.p('get', 'buy', 'find'))} {c.num(x)} more.", f"How many {t.many} does {b.name} have now?"], s, f"{b.lab} has {s} {t(s)} now.")
    hi, lo = max(n, mb), min(n, mb)
    d = c.do("Difference", hi, "-", lo)
    return c.done(f"compare_{kind}_diff", body + [f"How many more {t.many} does {(b if mb > n else a).name if (mb > n or a.third) else b.name} have{'' if (mb > n or a.third) else ' less'}?" if a.third
                  else "What is the difference between us?"], d, f"the difference is {d} {t(d)}.")


@scene(3)
def compare_chain(c):
    a, b, e, t = c.person(False, False), c.person(False, False), c.person(False, False), c.thing()
    n, d, k = c.n(3, 60), c.n(1, 30), c.n(2, 4)
    times = {2: c.p("twice", "two times"), 3: "three times", 4: "four times"}[k]
    m = c.do(b.lab, n, "+", d)
    if c.maybe():
        w = c.do(e.lab, m, "*", k)
        s3 = f"{e.name} {e.v('have')} {times} as many as {b.name}."
    else:
        if m < 3:
            return None
        f = c.n(1, m - 1)
        w = c.do(e.lab, m, "-", f)
        s3 = f"{e.name} {e.v('have')} {c.num(f)} {c.p('fewer', 'less')} than {b.name}."
        k = 0
    body = [f"{a.name} {a.v('have')} {c.num(n)} {t(n)}.", f"{b.name} {b.v('have')} {c.num(d)} more {c.p('', t.many + ' ')}than {a.name}.", s3]
    if c.maybe(0.25):
        body = body[::-1]
    elif c.maybe(0.3):
        body = [body[0], body[2], body[1]]
    if c.maybe(0.45):
        return c.done(f"chain{bool(k):d}", body + [f"How many {t.many} {'did' if c.past else 'does'} {e.name} have?"], w, f"{e.lab} has {w} {t(w)}.")
    u = c.do("First two", n, "+", m)
    s = c.do("All three", u, "+", w)
    return c.done(f"chain{bool(k):d}_sum", body + [c.p(f"How many {t.many} do they have {c.p('altogether', 'in total', 'in all', 'together')}?", f"How many {t.many} do the three of them have together?")], s, f"together they have {s} {t(s)}.")


@scene(2)
def difference(c):
    a, b, t = c.person(False), c.person(False, False), c.thing()
    n, m = c.size((2, 30), (10, 99), (50, 400)), c.size((2, 30), (10, 99), (50, 400))
    if n == m:
        return None
    hi, lo = (a, b) if n > m else (b, a)
    body = [c.p(f"{a.name} {a.v(c.p('have', 'collect', 'pick', 'find'))} {c.num(n)} {t(n)} and {b.name} {b.v('have')} {c.num(m)}{c.p('', ' ' + t(m))}.",
                f"{a.name} {a.v('have')} {c.num(n)} {t(n)}. {b.name} {b.v('have')} {c.num(m)} {t(m)}.")]
    verb = "do" if not hi.third else "does"
    d = c.do("Difference", max(n, m), "-", min(n, m))
    ask = c.p(f"How many more {t.many} {verb} {hi.name} have than {lo.name if lo.third else 'I do'}?", f"How many {c.p('fewer', 'less')} {t.many} {'do' if not lo.third else 'does'} {lo.name} have than {hi.name if hi.third else 'I do'}?",
              f"What is the difference between the two numbers of {t.many}?")
    return c.done("difference", body + [ask], d, f"the difference is {d} {t(d)}.")


@scene()
def equalize(c):
    a, b, t = c.person(False, False), c.person(False, False), c.thing()
    m = c.n(2, 40)
    d = c.n(1, 20)
    body = f"{a.name} has {c.num(m + 2 * d)} {t.many} and {b.name} has {c.num(m)}. "
    x = c.do("Difference", m + 2 * d, "-", m)
    y = c.do("Half of it", x, "/", 2)
    return c.done("equalize", body + c.p(f"How many {t.many} must {a.name} give to {b.name} so that both have the same number?", f"How many should {a.name} give {b.name} so that they have equally many?"), y, f"{a.lab} must give {y} {t(y)}.")


@scene(2)
def total_of(c):
    """Three amounts, total; or the missing one of a total."""
    a, t = c.person(), c.thing()
    n = [c.size((2, 20), (5, 60), (30, 200)) for _ in range(3)]
    cols = c.rng.sample(["red", "blue", "green", "yellow", "white", "black"], 3)
    if c.maybe():
        body = c.p(f"{a.s} {a.v('have')} {c.num(n[0])} {cols[0]} {t.many}, {c.num(n[1])} {cols[1]} {t.many} and {c.num(n[2])} {cols[2]} {t.many}.",
                   f"A {c.container().one} holds {c.num(n[0])} {cols[0]}, {c.num(n[1])} {cols[1]} and {c.num(n[2])} {cols[2]} {t.many}.",
                   f"{a.s} {a.v(c.p('find', 'pick', 'collect'))} {c.num(n[0])} {t.many} on Monday, {c.num(n[1])} on Tuesday and {c.num(n[2])} on Wednesday.")
        u = c.do("First two", n[0], "+", n[1])
        s = c.do("All three", u, "+", n[2])
        return c.done("total_three", [body, c.p(f"How many {t.many} are there {c.p('in total', 'altogether', 'in all')}?", f"What is the total number of {t.many}?", f"How many {t.many} is that in total?")], s, f"there are {s} {t(s)} in total.")
    total = sum(n)
    body = c.p(f"{a.s} {a.v('have')} {total} {t.many}. {c.num(n[0])} are {cols[0]}, {c.num(n[1])} are {cols[1]} and the rest are {cols[2]}.",
               f"There are {total} {t.many} in a {c.container().one}: {c.num(n[0])} {cols[0]}, {c.num(n[1])} {cols[1]}, and the others are {cols[2]}.",
               f"Of {total} {t.many}, {c.num(n[0])} are {cols[0]} and {c.num(n[1])} are {cols[1]}. The rest are {cols[2]}.")
    u = c.do(f"{cap(cols[0])} and {cols[1]}", n[0], "+", n[1])
    r = c.do("The rest", total, "-", u)
    return c.done("total_rest", [body, c.p(f"How many {cols[2]} {t.many} are there?", f"How many {t.many} are {cols[2]}?", f"How many are {cols[2]}?")], r, f"{r} {t(r)} {'is' if r == 1 else 'are'} {cols[2]}.")


@scene(2)
def together(c):
    a, b, t = c.person(False), c.person(False, False), c.thing()
    n, m = c.size((2, 20), (5, 99), (50, 400)), c.size((2, 20), (5, 99), (50, 400))
    we = f"{a.name} and {b.name}" if a.third else f"{b.name} and I"
    if c.maybe():
        verb = c.p("have", "collect", "pick", "find", "bake", "buy", "make", "sell")
        body = c.p(f"{a.name} {a.v(verb)} {c.num(n)} {t(n)} and {b.name} {b.v(verb)} {c.num(m)}{c.p('', ' ' + t(m))}.", f"{a.name} {a.v(verb)} {c.num(n)} {t(n)}. {b.name} {b.v(verb)} {c.num(m)} {t(m)}.")
        s = c.do("Together", n, "+", m)
        return c.done("together", [body, c.p(f"How many {t.many} is that {c.p('together', 'altogether', 'in total', 'in all')}?", f"How many {t.many} do {'they' if a.third else 'we'} have {c.p('together', 'altogether', 'in total')}?",
                      f"What is the total number of {t.many}?")], s, f"that is {s} {t(s)} in total.")
    body = c.p(f"{we} have {n + m} {t.many} together. {cap(a.name)} {a.now('have')} {c.num(n)} of them.", f"Together {we} have {n + m} {t.many}. {c.num(n)} of them belong to {a.name if a.third else 'me'}.")
    r = c.do(b.lab, n + m, "-", n)
    return c.done("together_other", [body, f"How many {t.many} does {b.name} have?"], r, f"{b.lab} has {r} {t(r)}.")


@scene()
def sum_diff(c):
    a, b, t = c.person(False, False), c.person(False, False), c.thing()
    lo, d = c.n(2, 60), c.n(1, 30)
    total = 2 * lo + d
    u = c.do("Without the extra", total, "-", d)
    v = c.do(b.lab, u, "/", 2)
    body = f"{a.name} and {b.name} have {total} {t.many} {c.p('together', 'in total')}. {a.name} has {c.num(d)} more than {b.name}."
    if c.maybe():
        return c.done("sum_diff_low", [body, f"How many {t.many} does {b.name} have?"], v, f"{b.lab} has {v} {t(v)}.")
    w = c.do(a.lab, v, "+", d)
    return c.done("sum_diff_high", [body, f"How many {t.many} does {a.name} have?"], w, f"{a.lab} has {w} {t(w)}.")


@scene(2)
def reverse(c):
    a, t = c.person(), c.thing()
    left, d = c.size((2, 30), (10, 150)), c.size((2, 20), (10, 90))
    if c.maybe(0.6):
        body = c.p(f"{a.s} {a.v('have')} some {t.many}. {a.s} {a.v(c.p('give', 'sell', 'lose'))} {c.num(d)} {c.p('', 'of them ')}and now {a.he} {a.has} {c.num(left)} left.", f"After giving away {c.num(d)} {t.many}, {a.s} {a.now('have')} {c.num(left)} left.",
                   f"{a.s} {'gave' if c.past else a.has + ' given'} {c.num(d)} {t.many} to {c.other(a)}. Now {a.he} {a.has} {c.num(left)} {t.many}.")
        r = c.do("At first", left, "+", d)
        tid = "reverse_out"
    else:
        body = c.p(f"{a.s} {a.v('have')} some {t.many}. {cap(c.other(a))} {'gave' if c.past else 'gives'} {a.him} {c.num(d)} more, and now {a.he} {a.has} {left + d}.", f"After buying {c.num(d)} more {t.many}, {a.s} {a.now('have')} {left + d} {t.many}.")
        r = c.do("At first", left + d, "-", d)
        tid = "reverse_in"
    return c.done(tid, [cap(body), c.p(f"How many {t.many} did {a.he} have {c.p('at first', 'at the start', 'in the beginning', 'before')}?", f"How many {t.many} did {a.name} start with?", f"How many {t.many} were there at first?")], r, f"{a.lab} had {r} {t(r)} at first.")


# --- ages --------------------------------------------------------------------------------------------------------------------------

@scene(3)
def ages(c):
    a, b = c.person(False), c.person(False, False)
    c.past = False
    n = c.n(4, 45)
    am = "is" if a.third else "am"
    kind = c.p("older", "younger", "twice", "half")
    if kind == "older":
        d = c.n(1, 30)
        step, rel = (n, "+", d), f"{c.num(d)} year{_s(d)} older than"
    elif kind == "younger":
        d = c.n(1, n - 1)
        step, rel = (n, "-", d), f"{c.num(d)} year{_s(d)} younger than"
    elif kind == "twice":
        k = c.n(2, 3)
        step, rel = (n, "*", k), f"{'twice' if k == 2 else 'three times'} as old as"
    else:
        if n % 2:
            return None
        step, rel = (n, "/", 2), "half as old as"
    s1 = f"{a.name} {am} {c.num(n)}{c.p(' years old', '')}"
    s2 = f"{b.name} is {rel} {a.name if a.third else c.p('me', 'I am')}"
    body = c.p([f"{s1}.", f"{s2}."], [f"{s1} and {s2}."], [f"{s2}.", f"{s1}."])
    m = c.do(b.lab, *step)
    r = c.rng.random()
    if r < 0.4:
        return c.done(f"age_{kind}", body + [c.p(f"How old is {b.name}?", f"What is {b.name}'s age?")], m, f"{b.lab} is {m} year{_s(m)} old.")
    if r < 0.7:
        s = c.do("Sum", n, "+", m)
        return c.done(f"age_{kind}_sum", body + [c.p("What is the sum of their ages?", "How old are they together?") if a.third else "What is the sum of our ages?"], s, f"the sum of the ages is {s}.")
    y = c.n(2, 20)
    s = c.do(f"In {y} years", m, "+", y)
    return c.done(f"age_{kind}_future", body + [c.p(f"How old will {b.name} be in {c.num(y)} years?", f"How old is {b.name} in {c.num(y)} years?")], s, f"{b.lab} will be {s} years old.")


@scene()
def age_simple(c):
    a = c.person()
    n, y = c.n(3, 60), c.n(2, 25)
    am = "is" if a.third else "am"
    if c.maybe():
        s = c.do("Then", n, "+", y)
        return c.done("age_later", c.p(f"{a.name} {am} {c.num(n)} years old. How old will {a.he} be in {c.num(y)} years?", f"How old will {a.name} be in {c.num(y)} years if {a.he} {am} {c.num(n)} now?"), s, f"{a.lab} will be {s} years old.")
    if y >= n:
        return None
    s = c.do("Then", n, "-", y)
    return c.done("age_before", f"{a.name} {am} {c.num(n)} years old. How old was {a.he} {c.num(y)} years ago?", s, f"{a.lab} {'was' if a.third else 'were'} {s} year{_s(s)} old.")


# --- sharing, packing ----------------------------------------------------------------------------------------------------------------

@scene(2)
def share(c):
    a, t = c.person(), c.thing()
    k, each = c.n(2, 12), c.size((2, 12), (2, 30))
    n = k * each
    people = c.p("friends", "children", "students", "cousins", "classmates", "people", "kids")
    box = c.container()
    r = c.do("Each", n, "/", k)
    if c.maybe(0.6):
        body = c.p(f"{a.s} {a.v('share')} {c.num(n)} {t.many} equally among {c.num(k)} {people}. How many {t.many} does each {c.p('one ', 'person ')}get?",
                   f"{a.s} {a.v('have')} {c.num(n)} {t.many} and {a.v('want')} to share them equally with {c.num(k)} {people}, keeping none. How many does each one get?",
                   f"{c.num(n)} {t.many} are divided equally between {c.num(k)} {people}. How many {t.many} does each get?", f"If {c.num(k)} {people} share {n} {t.many} equally, how many does each get?")
        return c.done("share", cap(body), r, f"each one gets {r} {t(r)}.")
    body = c.p(f"{a.s} {a.v('put')} {c.num(n)} {t.many} into {c.num(k)} {box.many}, the same number in each. How many {t.many} are in each {box.one}?",
               f"{a.s} {a.v('pack')} {c.num(n)} {t.many} equally into {c.num(k)} {box.many}. How many {t.many} go into each {box.one}?")
    return c.done("share_boxes", cap(body), r, f"each {box.one} has {r} {t(r)}.")


@scene(2)
def leftover(c):
    a, t = c.person(), c.thing()
    k, each = c.n(2, 12), c.n(2, 14)
    r = c.n(1, k - 1)
    n = k * each + r
    people = c.p("friends", "children", "students", "cousins", "people")
    c.do("Divide", n, "/", k)
    if c.maybe(0.65):
        body = c.p(f"{a.s} {a.v('share')} {c.num(n)} {t.many} equally among {c.num(k)} {people}.", f"{a.s} {a.v('have')} {n} {t.many} and {a.v('put')} them into bags of {c.num(k)}.")
        return c.done("leftover", [cap(body), c.p(f"How many {t.many} are left over?", f"How many {t.many} remain?", "How many are left over?")], r, f"{r} {t(r)} {'is' if r == 1 else 'are'} left over.")
    body = f"{a.s} {a.v('have')} {n} {t.many} and {a.v('pack')} them in boxes of {c.num(k)}."
    return c.done("leftover_full", [cap(body), c.p("How many full boxes are there?", f"How many full boxes can {a.he} make?")], each, f"there are {each} full boxes.")


@scene(2)
def ceiling(c):
    a = c.person()
    k = c.p(4, 5, 6, 8, 10, 12, 20, 30, 40, 50, c.n(3, 12))
    q = c.n(2, 12)
    r = c.n(1, k - 1) if c.maybe(0.75) else 0
    n = q * k + r
    what, unit, verb = c.p(("students", "bus", "ride"), ("people", "van", "ride"), ("eggs", "carton", "packed"), ("people", "boat", "ride"), ("books", "box", "packed"), ("guests", "table", "sit"), ("photos", "page", "fit"), ("bottles", "crate", "packed"))
    many = {"bus": "buses", "box": "boxes"}.get(unit, unit + "s")
    body = c.p(f"{n} {what} need places. Each {unit} holds {c.num(k)} {what}.", f"There are {n} {what}. One {unit} has room for {c.num(k)}.", f"{a.s} {a.v('have')} to find room for {n} {what}. Each {unit} can hold {c.num(k)}.")
    c.do("Divide", n, "/", k)
    t = c.do("One more for the rest", q, "+", 1) if r else q
    return c.done(f"ceiling_{unit}", [body, c.p(f"How many {many} are needed?", f"How many {many} are needed for all of them?", f"What is the smallest number of {many} needed?")], t, f"{t} {unit if t == 1 else many} are needed.")


@scene(2)
def packs_total(c):
    a, t, box = c.person(), c.thing(), c.container()
    k, m = c.size((2, 12), (5, 40)), c.size((2, 12), (5, 30))
    body = c.p(f"{a.s} {a.v('have')} {c.num(k)} {box.many} {c.p('with', 'of')} {c.num(m)} {t(m)} {c.p('each', 'in each')}.", f"There are {c.num(k)} {box.many} and each {box.one} {c.p('has', 'holds', 'contains')} {c.num(m)} {t(m)}.",
               f"{a.s} {a.v('buy')} {c.num(k)} {box.many} of {t.many}. {c.p('Each', 'Every')} {box.one} has {c.num(m)} {t(m)}.", f"Each {box.one} holds {c.num(m)} {t(m)}. {a.s} {a.v('have')} {c.num(k)} {box.many}.")
    ask = c.p(f"How many {t.many} are there {c.p('in total', 'altogether', 'in all')}?", f"How many {t.many} is that{c.p('', ' in total')}?", f"How many {t.many} {'does' if a.third else 'do'} {a.he} have in total?")
    n = c.do(f"{k} times {m}", k, "*", m)
    if c.maybe(0.6):
        return c.done("packs_total", [cap(body), ask], n, f"there are {n} {t(n)} in total.")
    if c.maybe():
        e = c.n(1, 30)
        s = c.do("With the loose ones", n, "+", e)
        return c.done("packs_extra", [cap(body), f"There {'is' if e == 1 else 'are'} also {c.num(e)} loose {t(e)}.", ask], s, f"there are {s} {t(s)} in total.")
    e = c.n(1, min(n - 1, 40))
    s = c.do("Good ones", n, "-", e)
    return c.done("packs_bad", [cap(body), c.p(f"{cap(c.num(e))} {t(e)} {'is' if e == 1 else 'are'} {c.p('broken', 'bad', 'damaged', 'missing')}.", f"{cap(c.num(e))} of them {'is' if e == 1 else 'are'} {c.p('broken', 'bad', 'damaged')}."), f"How many {c.p('good', 'other')} {t.many} are there?"], s, f"there are {s} good {t(s)}.")


@scene()
def nested(c):
    a, t = c.person(), c.thing()
    i, j, k = c.n(2, 9), c.n(2, 9), c.n(2, 12)
    u = c.do("Small packs", i, "*", j)
    s = c.do(cap(t.many), u, "*", k)
    one, two = c.p(("box", "pack"), ("crate", "bag"), ("shelf", "basket"), ("carton", "packet"))
    ones = {"box": "boxes", "shelf": "shelves"}.get(one, one + "s")
    body = c.p(f"{a.s} {a.v('have')} {c.num(i)} {ones}. Each {one} holds {c.num(j)} {two}s, and each {two} has {c.num(k)} {t.many}.", f"There are {c.num(i)} {ones} with {c.num(j)} {two}s each. Every {two} contains {c.num(k)} {t.many}.")
    return c.done("nested", [body, c.p(f"How many {t.many} are there in total?", f"How many {t.many} is that altogether?", f"How many {t.many} are there?")], s, f"there are {s} {t(s)} in total.")


@scene()
def regroup(c):
    a, t = c.person(), c.thing()
    i, j = c.n(2, 12), c.n(2, 12)
    n = i * j
    ks = [k for k in range(2, 13) if n % k == 0 and k not in (i, j)]
    if not ks:
        return None
    k = c.rng.choice(ks)
    u = c.do("All", i, "*", j)
    s = c.do("Each", u, "/", k)
    b1, b2 = c.container(), c.container()
    if b1.one == b2.one:
        return None
    return c.done("regroup", [f"{a.s} {a.v('have')} {c.num(i)} {b1.many} with {c.num(j)} {t.many} each.", f"{cap(a.he)} {a.v('put')} all the {t.many} into {c.num(k)} {b2.many} equally.", f"How many {t.many} are in each {b2.one}?"], s, f"each {b2.one} has {s} {t(s)}.")


@scene()
def slices(c):
    a, b = c.person(), c.person(i=False)
    k, s, x, y = c.n(1, 6), c.p(6, 8, 8, 10, 12), c.n(1, 6), c.n(1, 6)
    if k * s <= x + y:
        return None
    food = c.p("pizza", "cake", "pie")
    u = c.do("Slices", k, "*", s)
    if c.maybe():
        v = c.do("Eaten", x, "+", y)
        w = c.do("Left", u, "-", v)
        return c.done("slices_two", [f"{a.s} {a.v('order' if food == 'pizza' else 'bake')} {c.num(k)} {food}{_s(k)}, each cut into {c.num(s)} slices.", f"{cap(a.he)} {a.v('eat')} {c.num(x)} slice{_s(x)} and {b.name} {b.v('eat')} {c.num(y)}.", c.p("How many slices are left?", "How many slices remain?")], w, f"{w} slice{_s(w)} {'is' if w == 1 else 'are'} left.")
    if x < 2 or x * y >= u:
        return None
    v = c.do("Eaten", x, "*", y)
    w = c.do("Left", u, "-", v)
    return c.done("slices_each", [f"There {'is' if k == 1 else 'are'} {c.num(k)} {food}{_s(k)} with {c.num(s)} slices{' each' if k > 1 else ''}.", f"{cap(c.num(x))} {c.p('friends', 'children', 'people')} eat {c.num(y)} slice{_s(y)} each.", "How many slices are left?"], w, f"{w} slice{_s(w)} {'is' if w == 1 else 'are'} left.")
