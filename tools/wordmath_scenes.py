"""Written scenes, part one: shopping and money. Each function words one problem into a Scene and returns it, or None if the numbers do
not fit; SCENES holds them all, as often as they weigh."""
from wordmath_core import cap

SCENES = []


def scene(weight=1):
    def keep(f):
        SCENES.extend([f] * weight)
        return f
    return keep


def _s(n):
    return "" if n == 1 else "s"


# --- shopping and money ------------------------------------------------------------------------------------------------------------

@scene(3)
def shop_total(c):
    a, x, y = c.person(), c.thing(), c.thing()
    k, p, j, q = c.n(2, 12), c.size((1, 9), (2, 20)), c.n(1, 9), c.size((1, 9), (2, 30))
    k1, j1 = f"{c.num(k)} {x(k)}", f"{c.num(j)} {y(j)}"
    each = c.p("each", "each", "apiece")
    if c.maybe(0.25):                                # one of the second thing
        one = f"{c.p('a', 'one')} {y.one} for {c.usd(q)}"
        body = c.p(f"{a.s} {a.v('buy')} {k1} {c.p('at', 'for')} {c.usd(p)} {each} and {one}.", f"{a.s} {a.v('buy')} {one} and {k1} {c.p('at', 'for')} {c.usd(p)} {each}.", f"{a.s} {a.v('pay')} {c.usd(p)} {each} for {k1} and also {a.v('buy')} {one}.")
        u = c.do(cap(x.many), k, "*", p)
        t = c.do("Total", u, "+", q)
        return c.done("shop_total_one", [body, c.p(f"How much {c.p('money ', '')}{a.does} {a.he} spend{c.p('', ' in total')}?", "What is the total cost?", f"How much {a.does} {a.he} pay?")], t, f"the total is {c.ans_money(str(t))}.")
    body = c.p([f"{a.s} {a.v('buy')} {k1} for {c.usd(p)} {each} and {j1} for {c.usd(q)} {each}."],
               [f"{c.p('A', 'One')} {x.one} costs {c.usd(p)} and a {y.one} costs {c.usd(q)}.", f"{a.s} {a.v('buy')} {k1} and {j1}."],
               [f"{a.s} {a.v('buy')} {k1} at {c.usd(p)} {each}.", f"{a.s} also {a.v('buy')} {j1} at {c.usd(q)} {each}."],
               [f"At the {c.p('store', 'shop', 'market')}, {x.many} cost {c.usd(p)} {each} and {y.many} cost {c.usd(q)} {each}.",
                f"{a.s} {a.v('buy')} {k1} and {j1}."])
    ask = c.p(f"How much {c.p('money ', '')}{a.does} {a.he} spend{c.p('', ' in total', ' altogether', ' in all')}?", f"What is the total cost?",
              f"How much {a.does} {a.he} pay{c.p('', ' in total', ' altogether')}?", "How much does everything cost?", "What does it cost in total?")
    u = c.do(cap(x.many), k, "*", p)
    v = c.do(cap(y.many), j, "*", q)
    t = c.do("Total", u, "+", v)
    return c.done("shop_total", body + [ask], t, f"the total is {c.ans_money(str(t))}.")


@scene(3)
def shop_change(c):
    a, x = c.person(), c.thing()
    k, p = c.n(1, 9), c.n(1, 15)
    cost = k * p
    bill = next((b for b in (5, 10, 20, 50, 100, 200) if b > cost and c.maybe(0.8)), 200)
    if bill <= cost:
        return None
    body = c.p([f"{a.s} {a.v('buy')} {c.num(k)} {x(k)} {'for ' + c.usd(p) + ' each' if k > 1 else 'for ' + c.usd(p)} and {a.v('pay')} with {c.p('a ' + c.usd(bill) + ' bill' if len(c.euro) == 1 else c.usd(bill), c.usd(bill))}."],
               [f"{a.s} {a.v('have')} {c.usd(bill)}.", f"{a.s} {a.v('buy')} {c.num(k)} {x(k)} that cost{'s' if k == 1 else ''} {c.usd(p)}{' each' if k > 1 else ''}."],
               [f"{c.p('A', 'One')} {x.one} costs {c.usd(p)}.", f"{a.s} {a.v('buy')} {c.num(k)} and {a.v('give')} the cashier {c.usd(bill)}."],
               [f"With {c.usd(bill)}, {a.s} {a.v('buy')} {c.num(k)} {x(k)} at {c.usd(p)}{' each' if k > 1 else ''}."])
    ask = c.p(f"How much change {a.does} {a.he} get{c.p('', ' back')}?", f"How much money {a.does} {a.he} have left?", f"How much {c.p('money ', '')}is left?",
              f"What is {a.his} change?")
    u = c.do("Cost", k, "*", p)
    left = c.do("Left", bill, "-", u)
    return c.done("shop_change", body + [ask], left, f"{a.lab} {'gets' if a.third else 'get'} back {c.ans_money(str(left))}." if "change" in ask
                  else f"{a.lab} {a.has} {c.ans_money(str(left))} left.")


@scene()
def shop_three(c):
    a, x, y, z = c.person(), c.thing(), c.thing(), c.thing()
    p, q, r = c.n(2, 60), c.n(2, 60), c.n(2, 40)
    body = [c.p(f"{a.s} {a.v('buy')} a {x.one} for {c.usd(p)}, a {y.one} for {c.usd(q)} and a {z.one} for {c.usd(r)}.",
                f"A {x.one} costs {c.usd(p)}, a {y.one} {c.usd(q)} and a {z.one} {c.usd(r)}. {a.s} {a.v('buy')} one of each.")]
    u = c.do("First two", p, "+", q)
    t = c.do("All three", u, "+", r)
    if c.maybe():
        return c.done("shop_three", body + [c.p(f"How much {a.does} {a.he} spend?", "What is the total price?", "How much is that in total?")], t,
                      f"the total is {c.ans_money(str(t))}.")
    have = t + c.n(1, 80)
    body.insert(0, f"{a.name} {a.v('have')} {c.usd(have)}.") if body[0].startswith(a.name) is False else body.append(f"{cap(a.he)} {a.v('have')} {c.usd(have)} at first.")
    left = c.do("Left", have, "-", t)
    return c.done("shop_three_left", body + [c.p(f"How much money {a.does} {a.he} have left?", "How much money is left?")], left,
                  f"{a.lab} {a.has} {c.ans_money(str(left))} left.")


@scene()
def price_diff(c):
    x, y = c.thing(), c.thing()
    p, q = c.n(2, 150), c.n(2, 150)
    if p == q:
        return None
    c.names.append(f"{x.one}/{y.one}")
    body = f"A {x.one} costs {c.usd(p)} and a {y.one} costs {c.usd(q)}."
    hi, lo, m, l = (p, q, x, y) if p > q else (q, p, y, x)
    ask = c.p(f"How much more does the {m.one} cost than the {l.one}?", f"How much cheaper is the {l.one}?", f"What is the difference in price?",
              f"How much more expensive is the {m.one} than the {l.one}?")
    d = c.do("Difference", hi, "-", lo)
    return c.done("price_diff", [body, ask], d, f"the difference is {c.ans_money(str(d))}.")


@scene()
def unit_price(c):
    a, x = c.person(), c.thing()
    k, p, j = c.n(2, 12), c.n(1, 12), c.n(2, 15)
    body = c.p(f"{c.num(k)} {x.many} cost {c.usd(k * p)}.", f"{a.s} {a.v('pay')} {c.usd(k * p)} for {c.num(k)} {x.many}.")
    one = c.do(f"One {x.one}", k * p, "/", k)
    if c.maybe(0.4):
        return c.done("unit_price", [cap(body), c.p(f"How much does {c.p('one', 'each', 'a single')} {x.one} cost?", f"What is the price of one {x.one}?")], one,
                      f"one {x.one} costs {c.ans_money(str(one))}.")
    t = c.do(f"{j} {x(j)}", one, "*", j)
    return c.done("unit_price_more", [cap(body), c.p(f"How much do {c.num(j)} {x.many} cost?", f"How much would {c.num(j)} {x.many} cost?", f"What is the price of {c.num(j)} {x.many}?")],
                  t, f"{j} {x(j)} cost {c.ans_money(str(t))}.")


@scene(2)
def money_story(c):
    a = c.person()
    n = c.size((10, 60), (20, 99), (100, 500))
    have, ids = n, []
    body = [c.p(f"{a.s} {a.v('have')} {c.usd(n)}.", f"{a.s} {a.v('start')} with {c.usd(n)}.", f"{a.s} {a.v('have')} {c.usd(n)} in {a.his} {c.p('wallet', 'piggy bank', 'bank account', 'pocket')}.")]
    c.note("Start", str(n))
    for _ in range(c.n(1, 4)):
        if c.maybe(0.55) and have > 4:
            k = c.n(1, have - 1)
            body.append(c.p(f"{a.s} {a.v('spend')} {c.usd(k)} on {c.p('lunch', 'a book', 'a toy', 'food', 'a new shirt', 'a movie ticket', 'a gift', 'snacks', 'shoes')}.",
                            f"{a.s} {a.v('give')} {c.usd(k)} to {c.other(a)}.", f"{a.s} {a.v('pay')} {c.usd(k)} for {c.p('a haircut', 'a game', 'a taxi', 'the bus', 'a meal', 'a ticket')}.",
                            f"{a.s} {a.v('lose')} {c.usd(k)}.", f"{a.s} {a.v('donate')} {c.usd(k)} to charity."))
            have = c.do(f"Take away {k}", have, "-", k)
            ids.append("out")
        else:
            k = c.n(2, 80)
            body.append(c.p(f"{a.s} {a.v('earn')} {c.usd(k)} {c.p('by washing cars', 'mowing lawns', 'babysitting', 'from a job', 'doing chores', 'by selling lemonade')}.",
                            f"{cap(c.other(a))} {'gave' if c.past else 'gives'} {a.him} {c.usd(k)}.", f"{a.s} {a.v('find')} {c.usd(k)}.", f"{a.s} {a.v('get')} {c.usd(k)} for {a.his} birthday."))
            have = c.do(f"Add {k}", have, "+", k)
            ids.append("in")
    ask = c.p(f"How much money {'do' if not a.third else 'does'} {a.he} have {c.p('now', 'left', 'in the end')}?", f"How much {c.p('money ', '')}does {a.name} have now?" if a.third else "How much money do I have now?")
    return c.done("money:" + ",".join(ids), body + [ask], have, f"{a.lab} {a.has} {c.ans_money(str(have))}.")


@scene(2)
def saving(c):
    a = c.person()
    w, n, s = c.n(2, 40), c.n(2, 12), c.size((0, 0), (5, 80))
    unit = c.p("week", "month", "day")
    pre = [c.p(f"{a.s} {a.v('have')} {c.usd(s)} saved.", f"{a.s} already {a.v('have')} {c.usd(s)}.")] if s else []
    if c.maybe(0.6):
        body = pre + [f"{a.s} {a.v('save')} {c.usd(w)} {c.p('every', 'each', 'a', 'per')} {unit}{c.p('', '', ' from ' + a.his + ' allowance')}."]
        ask = c.p(f"How much {c.p('money ', '')}will {a.he} have after {c.num(n)} {unit}{_s(n)}?", f"How much {'do' if not a.third else 'does'} {a.he} have after {c.num(n)} {unit}{_s(n)}?",
                  f"How much money {'do' if not a.third else 'does'} {a.he} have in {c.num(n)} {unit}{_s(n)}?")
        u = c.do(f"Saved in {n} {unit}{_s(n)}", w, "*", n)
        t = c.do("With the start", s, "+", u) if s else u
        return c.done(f"saving_total{bool(s):d}", body + [ask], t, f"{a.lab} will have {c.ans_money(str(t))}.")
    goal = s + w * n
    body = [f"{a.s} {a.v('want')} to buy a {c.p('bike', 'game', 'phone', 'guitar', 'tablet', 'skateboard', 'camera', 'watch')} that costs {c.usd(goal)}."] + pre + [f"{a.s} {a.v('save')} {c.usd(w)} {c.p('every', 'each', 'a', 'per')} {unit}."]
    ask = c.p(f"How many {unit}s will it take {c.p('', a.him + ' ')}to save enough{c.p('', ' money')}?", f"After how many {unit}s can {a.he} buy it?", f"How many {unit}s does {a.he} need to save?" if a.third else f"How many {unit}s do I need to save?")
    rest = c.do("Still needed", goal, "-", s) if s else goal
    t = c.do(f"{cap(unit)}s", rest, "/", w)
    return c.done(f"saving_time{bool(s):d}", body + [ask], t, f"it takes {t} {unit}{_s(t)}.")


@scene()
def fundraiser(c):
    a, x = c.person(), c.thing()
    k, p = c.n(5, 60), c.n(2, 12)
    goal = k * p + c.n(5, 200)
    body = [c.p(f"{a.s} {a.v('want')} to raise {c.usd(goal)} for {c.p('charity', 'a school trip', 'the animal shelter')}.", f"{a.s} {a.v('need')} {c.usd(goal)} for a trip."),
            c.p(f"{a.s} {a.v('sell')} {c.num(k)} {x(k)} for {c.usd(p)} each.", f"So far {a.he} {'sold' if c.past else a.has + ' sold'} {c.num(k)} {x(k)} at {c.usd(p)} each.")]
    u = c.do("Raised", k, "*", p)
    d = c.do("Still needed", goal, "-", u)
    return c.done("fundraiser", body + [c.p(f"How much more {c.p('money ', '')}{'does' if a.third else 'do'} {a.he} need?", f"How much is still missing?")], d, f"{a.lab} {'needs' if a.third else 'need'} {c.ans_money(str(d))} more.")


@scene()
def profit(c):
    a, x = c.person(), c.thing()
    k, p = c.n(2, 40), c.n(1, 15)
    q = p + c.n(1, 10)
    body = [c.p(f"{a.s} {a.v('buy')} {c.num(k)} {x(k)} for {c.usd(p)} each and {a.v('sell')} them for {c.usd(q)} each.",
                f"{a.s} {a.v('buy')} {x.many} at {c.usd(p)} each and {a.v('sell')} them at {c.usd(q)} each. {a.s} {a.v('sell')} {c.num(k)} {x(k)}.")]
    u = c.do(f"Profit on one", q, "-", p)
    t = c.do(f"Profit on {k}", u, "*", k)
    return c.done("profit", body + [c.p(f"What is {a.his} profit?", f"How much profit {a.does} {a.he} make?", f"How much money {a.does} {a.he} gain?")], t, f"the profit is {c.ans_money(str(t))}.")


@scene(2)
def wages(c):
    a = c.person()
    w, h, d = c.n(5, 30), c.n(2, 10), c.n(2, 7)
    if c.maybe():
        body = [c.p(f"{a.s} {a.v('earn')} {c.usd(w)} {c.p('an', 'per', 'each')} hour.", f"{a.s} {c.p('is', 'was') if a.third else 'get'} paid {c.usd(w)} per hour." if a.third else f"I get paid {c.usd(w)} per hour."),
                c.p(f"{cap(a.he)} {a.v('work')} {c.num(h)} hours {c.p('a', 'per', 'each')} day for {c.num(d)} days.", f"{cap(a.he)} {a.v('work')} for {c.num(d)} days, {c.num(h)} hours each day.")]
        u = c.do("Hours", h, "*", d)
        t = c.do("Pay", u, "*", w)
        tid = "wages_days"
    else:
        h2 = c.n(2, 10)
        d1, d2 = c.p(("Monday", "Tuesday"), ("Saturday", "Sunday"), ("Friday", "Saturday"), ("Wednesday", "Thursday"))
        body = [f"{a.s} {a.v('earn')} {c.usd(w)} {c.p('an', 'per')} hour.", f"{cap(a.he)} {a.v('work')} {c.num(h)} hours on {d1} and {c.num(h2)} hours on {d2}."]
        u = c.do("Hours", h, "+", h2)
        t = c.do("Pay", u, "*", w)
        tid = "wages_two"
    return c.done(tid, body + [c.p(f"How much {c.p('money ', '')}{a.does} {a.he} earn{c.p('', ' in total', ' altogether')}?", f"How much {a.does} {a.he} make?")], t, f"{a.lab} {'earns' if a.third else 'earn'} {c.ans_money(str(t))}.")


@scene()
def discount(c):
    a = c.person()
    pct = c.p(10, 20, 25, 50, 30, 40, 75)
    unit = {25: 4, 75: 4, 50: 2}.get(pct, 10)
    price = unit * c.n(2, 30)
    item = c.p("jacket", "pair of shoes", "bike", "shirt", "game", "backpack", "watch", "chair", "lamp", "toy", "dress", "radio", "coat", "table")
    body = [c.p(f"A {item} costs {c.usd(price)}. It is on sale for {pct}% off.", f"{a.s} {a.v('buy')} a {item} with a {pct}% discount. The regular price is {c.usd(price)}.",
                f"A store gives {pct}{c.p('%', ' percent')} off a {item} that costs {c.usd(price)}.", f"The price of a {item} is {c.usd(price)}, but there is a discount of {pct}%.")]
    off = _percent(c, pct, price)
    if c.maybe(0.3):
        return c.done("discount_amount", body + [c.p("How much is the discount?", "How much money is saved?", "How much does one save?")], off, f"the discount is {c.ans_money(str(off))}.")
    t = c.do("Sale price", price, "-", off)
    return c.done("discount", body + [c.p("What is the sale price?", "What is the new price?", "How much does it cost now?", f"How much {a.does} {a.he} pay?")], t, f"the new price is {c.ans_money(str(t))}.")


def _percent(c, pct, n):
    """Steps for pct % of n; n must make it whole."""
    if pct == 100:
        return n
    if pct in (50, 25, 75):
        part = c.do("50% is a half" if pct == 50 else "25% is a quarter", n, "/", 2 if pct == 50 else 4)
        return c.do("75%", part, "*", 3) if pct == 75 else part
    if pct in (5, 15):
        ten = c.do("10%", n, "/", 10)
        five = c.do("5%", ten, "/", 2)
        return c.do("15%", ten, "+", five) if pct == 15 else five
    if pct == 1:
        return c.do("1%", n, "/", 100)
    ten = c.do("10%", n, "/", 10)
    return c.do(f"{pct}%", ten, "*", pct // 10) if pct > 10 else ten


@scene(2)
def percent_of(c):
    pct = c.p(5, 10, 10, 15, 20, 25, 30, 40, 50, 60, 70, 75, 80, 90)
    unit = {25: 4, 75: 4, 50: 2, 5: 20, 15: 20}.get(pct, 10)
    n = unit * c.n(1, 40 if unit < 20 else 20)
    P = c.p(f"{pct}%", f"{pct} percent")
    who, what, verb = c.p(("students", "class", "play a sport"), ("people", "group", "like tea"), ("animals", "zoo", "are birds"), ("children", "camp", "can swim"), ("books", "library", "are new"),
                          ("workers", "factory", "walk to work"), ("flowers", "garden", "are red"), ("cars", "parking lot", "are blue"), ("seats", "theater", "are empty"), ("eggs", "box", "are brown"))
    c.names += [who, str(n)]
    part = _percent(c, pct, n)
    if c.maybe(0.35):
        rest = c.do("The others", n, "-", part)
        body = f"There are {n} {who} in a {what}. {P} of them {verb}."
        return c.done("percent_rest", [body, c.p(f"How many {who} do not?" if not verb.startswith("are") else f"How many {who} are not?", f"How many {who} are in the other group?")], rest, f"{rest} {who} do not." if not verb.startswith("are") else f"{rest} {who} are not.")
    body = c.p(f"There are {n} {who} in a {what}. {P} of them {verb}. How many {who} is that?", f"{P} of the {n} {who} in a {what} {verb}. How many {who} {verb}?",
               f"Out of {n} {who}, {P} {verb}. How many {who} {verb}?")
    return c.done("percent_of", body, part, f"{part} {who} {verb}.")


@scene()
def cents(c):
    a, x = c.person(), c.thing()
    k = c.n(2, 9)
    p = c.p(25, 50, 75, 150, 125, 250, 175, 350, 99, 120, 80, 45, 60, 225, 275, 450)
    sign = c.euro if len(c.euro) == 1 else "$"
    unit = {"$": "dollars", "€": "euros", "£": "pounds"}[sign]
    price = c.p(f"{sign}{p / 100:.2f}", f"{p} cents") if sign == "$" and p < 100 else f"{sign}{p / 100:.2f}"
    c.note("In cents", f"{price} is {p} cents" if "cents" not in price else f"{p} cents")
    t = c.do("Cost", p, "*", k)
    ask = c.p(f"How much {a.does} {a.he} pay?", "What is the total cost?", f"How much {a.does} {a.he} spend?")
    body = c.p(f"{a.s} {a.v('buy')} {c.num(k)} {x(k)} for {price} each.", f"{c.p('One', 'A')} {x.one} costs {price}. {a.s} {a.v('buy')} {c.num(k)}.")
    if c.maybe(0.6):
        c.note("In " + unit, f"{t} cents is {sign}{t / 100:.2f}")
        return c.done("cents_total", [body, ask], f"{t / 100:.2f}", f"the total is {sign}{t / 100:.2f}.")
    bill = next((b for b in (500, 1000, 2000, 5000) if b > t), 10000)
    left = c.do("Change", bill, "-", t)
    c.note("In " + unit, f"{left} cents is {sign}{left / 100:.2f}")
    return c.done("cents_change", [body, f"{cap(a.he)} {a.v('pay')} with {sign}{bill // 100}.", c.p(f"How much change {a.does} {a.he} get?", f"What is {a.his} change?")], f"{left / 100:.2f}", f"the change is {sign}{left / 100:.2f}.")


@scene()
def coins(c):
    a = c.person()
    kinds = [("pennies", 1), ("nickels", 5), ("dimes", 10), ("quarters", 25)]
    i = c.n(0, 2)
    (u, p), (v, q) = kinds[i], kinds[c.n(i + 1, 3)]
    k, j = c.n(2, 12), c.n(2, 12)
    x, y = c.do(cap(u), k, "*", p), c.do(cap(v), j, "*", q)
    t = c.do("Total", x, "+", y)
    return c.done("coins", [f"{a.s} {a.v('have')} {c.num(k)} {u} and {c.num(j)} {v}.", c.p(f"How many cents {'does' if a.third else 'do'} {a.he} have?", "How many cents is that in total?", "How much is that in cents?")], t, f"{a.lab} {a.has} {t} cents.")


@scene()
def bill_split(c):
    a = c.person(i=False)
    k, each, tip = c.n(2, 9), c.n(4, 40), c.size((0, 0), (2, 30))
    if k * each <= tip:
        return None
    body = c.p(f"{a.s} and {c.num(k - 1)} friend{_s(k - 1)} eat at a restaurant.", f"{a.s} goes to a restaurant with {c.num(k - 1)} friend{_s(k - 1)}.")
    people = c.do("People", k - 1, "+", 1)
    if tip:
        body += c.p(f" The bill is {c.usd(k * each - tip)} and they leave a tip of {c.usd(tip)}.", f" The meal costs {c.usd(k * each - tip)} plus a {c.usd(tip)} tip.")
        c.do("Bill with tip", k * each - tip, "+", tip)
    else:
        body += c.p(f" The bill is {c.usd(k * each)}.", f" Together they have to pay {c.usd(k * each)}.")
    t = c.do("Each", k * each, "/", people)
    return c.done(f"bill_split{bool(tip):d}", [body, c.p("They share the cost equally. How much does each person pay?", "If they split it equally, how much does each one pay?", "How much does each pay if they split it evenly?")], t, f"each person pays {c.ans_money(str(t))}.")


@scene()
def base_fee(c):
    a = c.person()
    f, p, k = c.n(2, 40), c.n(2, 12), c.n(2, 20)
    body, unit = c.p((f"A taxi costs {c.usd(f)} plus {c.usd(p)} per mile. {a.s} {a.v('ride')} {c.num(k)} miles.", "ride"), (f"Renting a boat costs {c.usd(f)} plus {c.usd(p)} for each hour. {a.s} {a.v('use')} it for {c.num(k)} hours.", "rent"),
                     (f"A gym has a joining fee of {c.usd(f)} and costs {c.usd(p)} per visit. {a.s} {a.v('go')} {c.num(k)} times.", "gym"), (f"A bike rental charges {c.usd(f)} and another {c.usd(p)} per day. {a.s} {a.v('keep')} the bike for {c.num(k)} days.", "bike"))
    u = c.do("Variable part", p, "*", k)
    t = c.do("With the fee", f, "+", u)
    return c.done("base_fee_" + unit, [body, c.p(f"How much {a.does} {a.he} pay?", "What is the total cost?", "How much does it cost in total?")], t, f"the total cost is {c.ans_money(str(t))}.")


@scene()
def tickets(c):
    a = c.person(i=False)
    p, q = c.n(5, 30), c.n(2, 15)
    k, j = c.n(1, 12), c.n(1, 30)
    u = c.do("Adults", k, "*", p)
    v = c.do("Children", j, "*", q)
    t = c.do("Total", u, "+", v)
    where = c.p("the zoo", "the museum", "the movies", "a concert", "the circus", "the fair", "the pool")
    body = c.p([f"Tickets for {where} cost {c.usd(p)} for adults and {c.usd(q)} for children.", f"{a.s} {a.v('buy')} tickets for {c.num(k)} adult{_s(k)} and {c.num(j)} child{'' if j == 1 else 'ren'}."],
               [f"An adult ticket costs {c.usd(p)} and a child ticket costs {c.usd(q)}.", f"{a.s} {a.v('buy')} {c.num(k)} adult ticket{_s(k)} and {c.num(j)} child ticket{_s(j)}."])
    return c.done("tickets", body + [c.p("What is the total cost?", f"How much {a.does} {a.he} pay in total?", "How much do the tickets cost altogether?")], t, f"the tickets cost {c.ans_money(str(t))}.")
