"""Written scenes, part three: rates, trips and time; places, bodies, recipes, games."""
from wordmath_core import cap
from wordmath_scenes import _s, scene

# --- rates, trips, time -------------------------------------------------------------------------------------------------------------

@scene(3)
def trip(c):
    a = c.person()
    v, h = c.size((3, 20), (10, 80), (40, 120)), c.n(2, 9)
    d = v * h
    unit, per = c.p(("miles", "mile"), ("kilometers", "kilometer"), ("km", "km"))
    how = "walk" if v < 7 else "cycle" if v < 25 else c.p("drive", "drive", "travel")
    kind = c.p("d", "d", "d", "t", "s", "legs")
    speed = c.p(f"{v} {unit} per hour", f"{v} {unit} an hour", f"{v} {unit} each hour")
    veh = c.p(None, None, "A train", "A bus", "A car", "A truck", "A boat") if v > 20 else None
    subj, verb = (veh, "traveled" if c.past else "travels") if veh else (a.s, a.v(how))
    ref = "it" if veh else a.he
    does = "does" if veh or a.third else "do"
    if kind == "d":
        body = c.p(f"{subj} {verb} at {speed} for {c.num(h)} hours.", f"{subj} {verb} {speed}. The trip takes {c.num(h)} hours.")
        r = c.do("Distance", v, "*", h)
        return c.done("trip_distance", [cap(body), c.p(f"How far {does} {ref} go?", f"How many {unit} is that?", f"What distance {does} {ref} travel?", f"How far is the trip?")], r, f"the distance is {r} {unit}.")
    if kind == "t":
        body = c.p(f"{subj} {verb} {d} {unit} at {speed}.", f"The distance is {d} {unit}. {cap(subj)} {verb} at {speed}.")
        r = c.do("Hours", d, "/", v)
        return c.done("trip_time", [cap(body), c.p("How many hours does it take?", "How long does the trip take, in hours?", f"How many hours {does} {ref} need?")], r, f"it takes {r} hour{_s(r)}.")
    if kind == "s":
        body = f"{subj} {verb} {d} {unit} in {c.num(h)} hours."
        r = c.do("Speed", d, "/", h)
        return c.done("trip_speed", [cap(body), c.p(f"What is the {c.p('average ', '')}speed in {unit} per hour?", f"How many {unit} is that per hour?", f"How many {unit} {does} {ref} go in one hour?")], r, f"the speed is {r} {unit} per hour.")
    v2, h2 = c.n(3, 90), c.n(2, 6)
    u = c.do("First part", v, "*", h)
    w = c.do("Second part", v2, "*", h2)
    r = c.do("Total", u, "+", w)
    body = f"{subj} {verb} at {v} {unit} per hour for {c.num(h)} hours and then at {v2} {unit} per hour for {c.num(h2)} hours."
    return c.done("trip_legs", [cap(body), c.p("What is the total distance?", f"How far {does} {ref} travel altogether?", f"How many {unit} is that in total?")], r, f"the total distance is {r} {unit}.")


@scene()
def trip_left(c):
    a = c.person()
    d = c.n(50, 600)
    x, y = c.n(5, d // 2), c.n(5, d // 3)
    unit = c.p("miles", "kilometers", "km")
    body = c.p(f"{a.s} {a.v(c.p('drive', 'travel', 'ride'))} {x} {unit} in the morning and {y} {unit} in the afternoon. The whole trip is {d} {unit}.", f"A trip is {d} {unit} long. {a.s} {a.v('drive')} {x} {unit} on the first day and {y} {unit} on the second.")
    u = c.do("Done", x, "+", y)
    r = c.do("Left", d, "-", u)
    return c.done("trip_left", [body, c.p(f"How many {unit} are left?", f"How far {'does' if a.third else 'do'} {a.he} still have to go?", "How much of the trip is left?")], r, f"{r} {unit} are left.")


@scene()
def opposite(c):
    a, b = c.person(False, False), c.person(False, False)
    v, w, h = c.n(3, 80), c.n(3, 80), c.n(2, 6)
    u = c.do("Apart each hour", v, "+", w)
    r = c.do(f"After {h} hours", u, "*", h)
    unit = c.p("miles", "kilometers", "km")
    return c.done("opposite", [c.p(f"{a.name} and {b.name} start at the same place and go in opposite directions.", f"Two trains leave the same station in opposite directions."), f"One goes {v} {unit} per hour, the other {w} {unit} per hour.", f"How far apart are they after {c.num(h)} hours?"], r, f"they are {r} {unit} apart.")


@scene(3)
def rate(c):
    a, t = c.person(), c.thing()
    v, h = c.size((2, 20), (10, 120)), c.n(2, 12)
    unit = c.p("hour", "day", "minute", "week")
    who = c.p(a.s, a.s, "A machine", "A factory", "A bakery")
    verb = a.v("make") if who == a.mark else ("made" if c.past else c.p("makes", "produces"))
    kind = c.p("n", "n", "t", "two")
    if kind == "n":
        body = c.p(f"{who} {verb} {v} {t.many} {c.p('per', 'each', 'every', 'an' if unit == 'hour' else 'a')} {unit}.", f"{who} {verb} {v} {t.many} in one {unit}.")
        r = c.do(f"In {h} {unit}s", v, "*", h)
        return c.done("rate_total", [cap(body), c.p(f"How many {t.many} is that in {c.num(h)} {unit}s?", f"How many {t.many} are made in {c.num(h)} {unit}s?", f"How many {t.many} after {c.num(h)} {unit}s?")], r, f"that is {r} {t(r)} in {h} {unit}s.")
    if kind == "t":
        n = v * h
        r = c.do(f"{cap(unit)}s", n, "/", v)
        return c.done("rate_time", [cap(f"{who} {verb} {v} {t.many} {c.p('per', 'each', 'every')} {unit}."), c.p(f"How many {unit}s does it take to make {n} {t.many}?", f"How long does it take to make {n} {t.many}, in {unit}s?")], r, f"it takes {r} {unit}{_s(r)}.")
    w = c.n(2, 60)
    u = c.do(f"Both in one {unit}", v, "+", w)
    r = c.do(f"In {h} {unit}s", u, "*", h)
    return c.done("rate_two", [f"One machine makes {v} {t.many} per {unit} and another makes {w} {t.many} per {unit}.", c.p(f"How many {t.many} do they make together in {c.num(h)} {unit}s?", f"How many {t.many} do both make in {c.num(h)} {unit}s?")], r, f"together they make {r} {t(r)}.")


@scene(2)
def reading(c):
    a = c.person()
    p, n = c.size((5, 30), (10, 60)), c.n(2, 12)
    total = p * n
    what, verb = c.p(("pages", "read"), ("pages", "read"), ("problems", "solve"), ("words", "write"), ("pictures", "draw"))
    if what == "pages" and c.maybe():
        more = c.n(5, 200)
        u = c.do("Read so far", p, "*", n)
        r = c.do("Left", total + more, "-", u)
        return c.done("reading_left", [f"{a.s} {a.v('read')} a book with {total + more} pages.", f"{cap(a.he)} {a.v('read')} {c.num(p)} pages {c.p('a', 'each', 'every', 'per')} day for {c.num(n)} days.", c.p("How many pages are left?", f"How many pages {'does' if a.third else 'do'} {a.he} still have to read?")], r, f"{r} page{_s(r)} {'is' if r == 1 else 'are'} left.")
    if c.maybe():
        r = c.do("Days", total, "/", p)
        return c.done("reading_days", [f"{a.s} {a.v('have')} to {verb} {total} {what}.", f"{cap(a.he)} {a.v(verb)} {c.num(p)} {what} {c.p('a', 'each', 'every', 'per')} day.", c.p("How many days does it take?", f"How many days {'does' if a.third else 'do'} {a.he} need?", "After how many days is that done?")], r, f"it takes {r} day{_s(r)}.")
    r = c.do(f"In {n} days", p, "*", n)
    return c.done("reading_total", [f"{a.s} {a.v(verb)} {c.num(p)} {what} {c.p('a', 'each', 'every', 'per')} day.", c.p(f"How many {what} {a.does} {a.he} {verb} in {c.num(n)} days?", f"How many {what} is that in {c.num(n)} days?")], r, f"that is {r} {what}.")


@scene()
def reading_half(c):
    a = c.person()
    n = 2 * c.n(20, 200)
    k = c.n(5, n // 2 - 1)
    half = c.do("Half", n, "/", 2)
    r = c.do("Left", n - half, "-", k)
    return c.done("reading_half", [f"A book has {n} pages.", f"{a.s} {a.v('read')} half of it {c.p('on Monday', 'in the first week', 'on the first day')} and {c.num(k)} pages {c.p('after that', 'on the next day', 'later')}.", c.p("How many pages are left?", "How many pages remain?")], r, f"{r} page{_s(r)} {'is' if r == 1 else 'are'} left.")


@scene(2)
def practice(c):
    a = c.person()
    m, d, w = c.p(10, 15, 20, 25, 30, 40, 45), c.n(2, 7), c.n(2, 8)
    what = c.p("practices the piano", "does homework", "goes for a walk", "exercises", "plays chess", "plays the violin", "rides a bike")
    if not a.third:
        what = what.replace("practices", "practice").replace("does", "do").replace("goes", "go").replace("exercises", "exercise").replace("plays", "play").replace("rides", "ride")
    u = c.do("Minutes a week", m, "*", d)
    body = f"{a.s} {what} {m} minutes a day, {c.num(d)} days a week."
    if c.maybe(0.4):
        return c.done("practice_week", [body, c.p("How many minutes is that in a week?", "How many minutes is that per week?")], u, f"that is {u} minutes a week.")
    r = c.do(f"In {w} weeks", u, "*", w)
    return c.done("practice_weeks", [body, c.p(f"How many minutes is that in {c.num(w)} weeks?", f"How many minutes {'does' if a.third else 'do'} {a.he} spend on it in {c.num(w)} weeks?")], r, f"that is {r} minutes.")


@scene(2)
def clock(c):
    a = c.person()
    h, m = c.n(1, 11), 5 * c.n(0, 11)
    d = 5 * c.n(2, 23)
    eh, em = divmod(h * 60 + m + d, 60)
    if eh > 12:
        return None
    what = c.p("A movie", "A lesson", "A concert", "A game", "A meeting", "A train ride", "A class", "The party")
    start, end = f"{h}:{m:02d}", f"{eh}:{em:02d}"
    if c.maybe(0.55):
        dh, dm = divmod(d, 60)
        dur = f"{d} minutes" if not dh or c.maybe(0.4) else f"{c.num(dh)} hour{_s(dh)}" + (f" and {dm} minutes" if dm else "")
        if "hour" in dur and dm:
            c.do("In minutes", 60 * dh, "+", dm)
        elif "hour" in dur:
            c.note("In minutes", f"{d}")
        s = c.do("Minutes", m, "+", d)
        if s >= 60:
            k, rest = divmod(s, 60)
            c.note("Hours", f"{s} minutes is {k} h {rest} min, {h} + {k} = {eh}")
        body = c.p(f"{what} starts at {start} and lasts {dur}. When does it end?", f"{what} begins at {start}. It takes {dur}. At what time does it end?", f"{a.s} {a.v('leave')} home at {start} and {a.v('travel')} for {dur}. {c.p('At what time', 'When')} {a.does} {a.he} arrive?",
                   f"{c.p('The', 'My', 'A')} {c.p('train', 'bus', 'flight', 'ferry')} leaves at {start} and the {c.p('ride', 'trip', 'journey')} {c.p('is', 'takes', 'lasts')} {dur}. {c.p('When', 'At what time')} {c.p('do I', 'does it')} arrive?")
        c.names = [what, start] if what[0] != "A" or a.mark not in body else c.names
        c.people = [q for q in c.people if q.mark in body]
        return c.done("clock_end", cap(body), end, f"the time is {end}.")
    c.note("Start", f"{h} * 60 + {m} = {h * 60 + m} min")
    c.note("End", f"{eh} * 60 + {em} = {eh * 60 + em} min")
    r = c.do("Minutes", eh * 60 + em, "-", h * 60 + m)
    return c.done("clock_span", c.p(f"{what} starts at {start} and ends at {end}. How many minutes does it last?", f"How many minutes are there from {start} to {end}?", f"{a.s} {a.v('work')} from {start} to {end}. How many minutes is that?"), r, f"it is {r} minutes.")


@scene(2)
def convert(c):
    a = c.person()
    big, small, k = c.p(("hour", "minutes", 60), ("minute", "seconds", 60), ("week", "days", 7), ("day", "hours", 24), ("year", "months", 12), ("foot", "inches", 12), ("meter", "centimeters", 100), ("kilometer", "meters", 1000), ("kilogram", "grams", 1000), ("dozen", "eggs", 12), ("yard", "feet", 3))
    n = c.n(2, 12)
    bigs = {"foot": "feet", "dozen": "dozen"}.get(big, big + "s")
    if c.maybe(0.5):
        r = c.do(f"1 {big} is {k} {small}", n, "*", k)
        return c.done("convert_" + small, c.p(f"How many {small} are there in {c.num(n)} {bigs}?", f"How many {small} are in {c.num(n)} {bigs}?", f"{a.s} {a.v('have')} {c.num(n)} {bigs}{' of eggs' if big == 'dozen' else ''}. How many {small} is that?" if big in ("dozen", "week") else f"How many {small} is {c.num(n)} {bigs}?",
                      f"Convert {n} {bigs} to {small}."), r, f"{n} {bigs} {'is' if big == 'dozen' else 'are'} {r} {small}.")
    if c.maybe(0.5):
        e = c.n(1, k - 1)
        u = c.do(f"1 {big} is {k} {small}", n, "*", k)
        r = c.do("Add the rest", u, "+", e)
        return c.done("convert_plus_" + small, c.p(f"How many {small} are {c.num(n)} {bigs} and {e} {small}?", f"How many {small} are there in {c.num(n)} {bigs} and {e} {small}?"), r, f"that is {r} {small}.")
    r = c.do(f"{k} {small} are 1 {big}", n * k, "/", k)
    return c.done("convert_up_" + small, c.p(f"How many {bigs} are {n * k} {small}?", f"How many {bigs} is {n * k} {small}?", f"Convert {n * k} {small} to {bigs}."), r, f"{n * k} {small} are {r} {bigs}.")


@scene()
def tank(c):
    v, m, out = c.n(3, 40), c.n(3, 30), c.size((0, 0), (1, 15))
    what = c.p("tank", "pool", "bathtub", "barrel", "bucket")
    unit = c.p("liters", "gallons")
    c.names += [what, str(v)]
    if out and out < v:
        u = c.do("Net each minute", v, "-", out)
        r = c.do(f"In {m} minutes", u, "*", m)
        return c.done("tank_leak", [c.p(f"Water flows into a {what} at {v} {unit} per minute and leaks out at {out} {unit} per minute.", f"A hose fills a {what} with {v} {unit} per minute, but {out} {unit} per minute leak out."), f"How many {unit} are in the {what} after {c.num(m)} minutes{c.p('', ' if it was empty at first')}?"], r, f"there are {r} {unit} in the {what}.")
    s = c.n(5, 100)
    u = c.do("Added", v, "*", m)
    r = c.do("Now", s, "+", u)
    return c.done("tank_fill", [f"A {what} holds {s} {unit} of water.", c.p(f"A hose adds {v} {unit} per minute for {c.num(m)} minutes.", f"Every minute {v} {unit} flow in, for {c.num(m)} minutes."), f"How many {unit} are in the {what} now?"], r, f"there are {r} {unit} in the {what}.")


@scene()
def consume(c):
    a = c.person()
    r, n = c.n(2, 15), c.n(2, 20)
    what, unit = c.p(("dog food", "cups"), ("rice", "bowls"), ("water", "liters"), ("milk", "glasses"), ("paper", "sheets"), ("hay", "bales"), ("flour", "kilograms"), ("coffee", "cups"))
    t = c.do("Days", r * n, "/", r)
    return c.done("consume", [f"{a.s} {a.v('have')} {r * n} {unit} of {what}.", f"{cap(a.he)} {a.v('use')} {c.num(r)} {unit} {c.p('a', 'each', 'every', 'per')} day.", c.p("How many days will it last?", f"For how many days is that enough?", "After how many days is it gone?")], t, f"it lasts {t} day{_s(t)}.")


# --- places ------------------------------------------------------------------------------------------------------------------------

@scene(2)
def rows(c):
    a, t = c.person(), c.thing()
    i, j = c.n(2, 20), c.n(2, 15)
    where, what = c.p(("theater", "seats"), ("garden", "plants"), ("classroom", "desks"), ("parking lot", "cars"), ("orchard", "trees"), ("hall", "chairs"), ("field", "tulips"), ("farm", "bushes"))
    n = c.do(f"{i} times {j}", i, "*", j)
    c.names.append(where) if not c.names else None
    body = c.p(f"A {where} has {c.num(i)} rows with {c.num(j)} {what} {c.p('each', 'in each row')}.", f"In a {where} there are {c.num(i)} rows of {c.num(j)} {what}.", f"There are {c.num(j)} {what} in each of the {c.num(i)} rows of a {where}.")
    if c.maybe(0.45):
        return c.done("rows_" + what, [body, c.p(f"How many {what} are there{c.p('', ' in total', ' altogether')}?", f"What is the number of {what}?")], n, f"there are {n} {what}.")
    e = c.n(1, n - 1)
    verb = {"seats": "are taken", "chairs": "are taken", "desks": "are broken", "cars": "drive away", "trees": "are cut down"}.get(what, "die")
    r = c.do("The rest", n, "-", e)
    return c.done("rows_less_" + what, [body, f"{cap(c.num(e))} of them {verb if e > 1 else verb.replace('are', 'is').replace('drive', 'drives').replace('die', 'dies')}.", c.p(f"How many {what} are left?", "How many are left?") if verb in ("die", "drive away", "are cut down") else c.p(f"How many {what} are {'free' if verb == 'are taken' else 'good'}?", f"How many other {what} are there?")], r, f"{r} {what} are {'free' if verb == 'are taken' else 'left'}.")


@scene(2)
def bus(c):
    n = c.n(5, 60)
    have, ids = n, []
    veh, who = c.p(("bus", "people"), ("train", "passengers"), ("bus", "passengers"), ("tram", "people"), ("ferry", "people"), ("elevator", "people"))
    c.names += [veh, str(n)]
    body = [c.p(f"There are {c.num(n)} {who} on a {veh}.", f"A {veh} starts with {c.num(n)} {who}.", f"A {veh} carries {c.num(n)} {who}.")]
    c.note("Start", str(n))
    for i in range(c.n(1, 3)):
        off, on = c.n(0, min(have - 1, 25)), c.n(0, 25)
        at = c.p(f"At the {['first', 'second', 'third'][i]} stop, ", "At the next stop, ", "Then ", "")
        if off and on:
            body.append(cap(at + f"{c.num(off)} {c.p(who, 'people')} get off and {c.num(on)} get on."))
            ids.append("both")
        elif off:
            body.append(cap(at + f"{c.num(off)} {who} {c.p('get off', 'leave')}."))
            ids.append("off")
        elif on:
            body.append(cap(at + f"{c.num(on)} {who} get on."))
            ids.append("on")
        if off:
            have = c.do(f"{off} off", have, "-", off)
        if on:
            have = c.do(f"{on} on", have, "+", on)
    if not ids:
        return None
    return c.done("bus:" + ",".join(ids), body + [c.p(f"How many {who} are on the {veh} now?", f"How many {who} are left on the {veh}?", f"How many {who} are there now?")], have, f"there are {have} {who} on the {veh}." if have != 1 else f"there is 1 person on the {veh}.")


@scene()
def library(c):
    n = c.n(100, 900)
    x, y = c.n(5, 90), c.n(5, 90)
    place, what = c.p(("library", "books"), ("shop", "bikes"), ("store", "video games"), ("museum", "paintings"), ("warehouse", "boxes"), ("school", "computers"))
    c.names += [place, str(n)]
    u = c.do("Take away " + str(x), n, "-", x)
    r = c.do("Add " + str(y), u, "+", y)
    verb1, verb2 = c.p(("lends out", "gets back"), ("sells", "buys"), ("gives away", "receives"))
    day = c.p("Monday", "Friday", "one day", "Saturday")
    return c.done("library", [f"A {place} has {n} {what}.", f"{'On ' + day if day != 'one day' else 'One day'} it {verb1} {x} {what} and {verb2} {y}.", c.p(f"How many {what} does it have now?", f"How many {what} are there now?")], r, f"the {place} has {r} {what} now.")


@scene()
def legs(c):
    a = c.person()
    (u, p), (v, q) = c.p((("chickens", 2), ("cows", 4)), (("ducks", 2), ("sheep", 4)), (("bicycles", 2), ("cars", 4)), (("tricycles", 3), ("bicycles", 2)), (("spiders", 8), ("ants", 6)), (("birds", 2), ("cats", 4)), (("stools", 3), ("chairs", 4)))
    k, j = c.n(2, 30), c.n(2, 30)
    part = "wheels" if "cycles" in u else "legs"
    x = c.do(cap(u), k, "*", p)
    y = c.do(cap(v), j, "*", q)
    r = c.do("Total", x, "+", y)
    return c.done("legs_" + u, [c.p(f"{a.s} {a.v('see')} {c.num(k)} {u} and {c.num(j)} {v}.", f"There are {c.num(k)} {u} and {c.num(j)} {v}."), c.p(f"How many {part} are there{c.p('', ' in total', ' altogether')}?", f"How many {part} do they have in total?")], r, f"there are {r} {part} in total.")


@scene()
def rectangle(c):
    l, w = c.n(3, 60), c.n(2, 40)
    what = c.p("garden", "room", "field", "park", "rectangle", "playground", "carpet", "yard")
    unit = c.p("meters", "feet", "m", "cm" if what == "rectangle" else "meters")
    c.names += [what, str(l)]
    body = c.p(f"A {'rectangular ' if what != 'rectangle' else ''}{what} is {l} {unit} long and {w} {unit} wide.", f"A {what} has a length of {l} {unit} and a width of {w} {unit}.")
    if c.maybe():
        r = c.do("Length times width", l, "*", w)
        return c.done("area", [body, c.p("What is its area?", f"What is the area of the {what}?", f"How large is its area?")], r, f"the area is {r} square {unit}.")
    u = c.do("Length and width", l, "+", w)
    r = c.do("Perimeter", u, "*", 2)
    if c.maybe(0.6):
        return c.done("perimeter", [body, c.p("What is its perimeter?", f"What is the perimeter of the {what}?", f"How long is a fence around the {what}?")], r, f"the perimeter is {r} {unit}.")
    p = c.n(2, 12)
    t = c.do("Cost", r, "*", p)
    return c.done("fence_cost", [body, f"A fence around it costs {c.usd(p)} per {unit.rstrip('s') if unit != 'feet' else 'foot'}. How much does the fence cost?"], t, f"the fence costs {c.ans_money(str(t))}.")


@scene(2)
def classroom(c):
    kind = c.p("more", "rest", "teams", "classes")
    c.names.append(c.p("school", "camp", "class", "club"))
    place = c.names[-1]
    if kind == "more":
        b, d = c.n(5, 60), c.n(1, 25)
        g = c.do("Girls", b, "+", d)
        s = c.do("Total", b, "+", g)
        c.names.append(str(b))
        return c.done("class_more", [f"There are {c.num(b)} boys in a {place} and {c.num(d)} more girls than boys.", c.p("How many children are there in total?", "How many students are there altogether?")], s, f"there are {s} children in total.")
    if kind == "rest":
        n = c.n(12, 200)
        b = c.n(3, n - 3)
        c.names.append(str(n))
        r = c.do("Girls", n, "-", b)
        return c.done("class_rest", [c.p(f"A {place} has {n} students. {b} of them are boys.", f"Of the {n} students in a {place}, {b} are boys."), c.p("How many girls are there?", "How many are girls?")], r, f"there are {r} girls.")
    if kind == "teams":
        b, g, k = c.n(3, 40), c.n(3, 40), c.n(2, 9)
        if (b + g) % k:
            return None
        c.names.append(str(b))
        u = c.do("All", b, "+", g)
        r = c.do("Teams", u, "/", k)
        return c.done("class_teams", [f"There are {c.num(b)} boys and {c.num(g)} girls in a {place}.", c.p(f"They form teams of {c.num(k)}. How many teams are there?", f"They make groups of {c.num(k)} children. How many groups is that?")], r, f"there are {r} teams.")
    k, m, e = c.n(2, 20), c.n(10, 35), c.n(2, 30)
    c.names.append(str(k))
    u = c.do("Students", k, "*", m)
    r = c.do("With teachers", u, "+", e)
    return c.done("class_people", [f"A school has {c.num(k)} classes with {c.num(m)} students each and {c.num(e)} teachers.", c.p("How many people is that in total?", "How many students and teachers are there altogether?")], r, f"there are {r} people in total.")


@scene()
def temperature(c):
    n, up, down = c.n(5, 30), c.n(1, 15), c.n(1, 12)
    if n + up - down < 0:
        return None
    city = c.p("town", "city", "village")
    c.names += [city, str(n)]
    u = c.do("Up", n, "+", up)
    r = c.do("Down", u, "-", down)
    return c.done("temperature", [f"In the morning it {'was' if c.past else 'is'} {n} degrees{c.p('', ' in the ' + city)}.", c.p(f"By noon the temperature {'rose' if c.past else 'rises'} by {c.num(up)} degrees and in the evening it {'fell' if c.past else 'falls'} by {c.num(down)} degrees.", f"It gets {c.num(up)} degrees warmer and then {c.num(down)} degrees colder."), c.p("What is the temperature now?", "How many degrees is it in the end?")], r, f"it is {r} degree{_s(r)}.")


@scene()
def rope(c):
    a = c.person()
    p, k, r = c.n(2, 12), c.n(2, 12), 0
    what, unit = c.p(("rope", "meters"), ("ribbon", "centimeters"), ("wire", "feet"), ("string", "inches"), ("board", "feet"))
    if c.maybe(0.6):
        t = c.do("Pieces", p * k, "/", p)
        return c.done("rope_pieces", [f"{a.s} {a.v('have')} a {what} that is {p * k} {unit} long.", f"{cap(a.he)} {a.v('cut')} it into pieces of {c.num(p)} {unit}.", c.p("How many pieces are there?", f"How many pieces {a.does} {a.he} get?")], t, f"there are {t} pieces.")
    left = c.n(1, 40)
    u = c.do("Cut off", k, "*", p)
    t = c.do("Left", k * p + left, "-", u)
    return c.done("rope_left", [f"{a.s} {a.v('have')} {k * p + left} {unit} of {what}.", f"{cap(a.he)} {a.v('cut')} off {c.num(k)} pieces of {c.num(p)} {unit} each.", f"How many {unit} are left?"], t, f"{t} {unit} are left.")


@scene(2)
def recipe(c):
    a, t = c.person(), c.thing("food")
    per, k = c.n(2, 12), c.n(2, 12)
    what, unit = c.p(("flour", "cups"), ("sugar", "spoons"), ("milk", "cups"), ("butter", "grams"), ("eggs", None), ("water", "cups"))
    amount = f"{c.num(per)} {unit + ' of ' + what if unit else what}"
    q = f"How many {unit or what}{' of ' + what if unit else ''}"
    one = c.p("batch", "cake", "pan", "loaf")
    many = {"batch": "batches", "loaf": "loaves"}.get(one, one + "s")
    body = c.p(f"A recipe needs {amount} for one {one}.", f"{a.s} {a.v('need')} {amount} for each {one}.", f"One {one} takes {amount}.")
    r = c.do(f"For {k}", per, "*", k)
    if c.maybe(0.6):
        return c.done("recipe", [cap(body), c.p(f"{q} are needed for {c.num(k)} {many}?", f"{q} {'does' if a.third else 'do'} {a.he} need for {c.num(k)} {many}?")], r, f"{r} {unit + ' of ' + what if unit else what} are needed.")
    have = c.n(1, r - 1)
    s = c.do("Missing", r, "-", have)
    return c.done("recipe_more", [cap(body), f"{cap(a.he)} {a.v('want')} to make {c.num(k)} {many} and {a.v('have')} {c.num(have)} {unit or what}.", f"{q} {'does' if a.third else 'do'} {a.he} still need?"], s, f"{a.lab} still {'needs' if a.third else 'need'} {s} {unit + ' of ' + what if unit else what}.")


@scene()
def ratio(c):
    a = c.person()
    i, j, k = c.n(1, 6), c.n(2, 9), c.n(2, 12)
    u, v = c.p(("red", "blue"), ("white", "black"), ("green", "yellow"))
    t = c.thing("toy")
    x = c.do("Groups", i * k, "/", i) if i > 1 else k
    r = c.do(cap(v), x, "*", j)
    return c.done(f"ratio{i > 1:d}", [f"For every {c.num(i)} {u} {t(i)} {a.s} {a.v('have')} {c.num(j)} {v} {t(j)}.", f"{cap(a.he)} {a.v('have')} {c.num(i * k)} {u} {t(2)}.", f"How many {v} {t.many} {'does' if a.third else 'do'} {a.he} have?"], r, f"{a.lab} {a.has} {r} {v} {t(r)}.")


@scene(2)
def fraction_of(c):
    a, t = c.person(), c.thing()
    d = c.n(2, 6)
    u = c.n(1, d - 1)
    n = d * c.n(2, 20)
    name = {(1, 2): "half", (1, 3): c.p("a third", "one third", "1/3"), (2, 3): c.p("two thirds", "2/3"), (1, 4): c.p("a quarter", "1/4", "one fourth"), (3, 4): c.p("three quarters", "3/4", "three fourths"), (1, 5): c.p("a fifth", "1/5"), (2, 5): c.p("two fifths", "2/5")}.get((u, d), f"{u}/{d}")
    if (u, d) == (2, 4) or (u, d) in ((2, 6), (3, 6), (4, 6)):
        return None
    part = c.do("One part", n, "/", d)
    r = c.do("All parts", part, "*", u) if u > 1 else part
    body = f"{a.s} {a.v('have')} {n} {t.many}."
    verb = c.p("give", "sell", "use")
    if c.maybe():
        return c.done(f"fraction_{d}", [body, f"{cap(a.he)} {a.v(verb)} {name} of them{' to a friend' if verb == 'give' else ''}.", f"How many {t.many} {a.does} {a.he} {verb}{' away' if verb == 'give' else ''}?"], r, f"{a.lab} {a.now(verb)} {r} {t(r)}.")
    s = c.do("Left", n, "-", r)
    return c.done(f"fraction_left_{d}", [body, f"{cap(a.he)} {a.v(verb)} {name} of {c.p('them', 'the ' + t.many)}{' to a friend' if verb == 'give' else ''}.", c.p(f"How many {t.many} are left?", f"How many {t.many} {'does' if a.third else 'do'} {a.he} have left?")], s, f"{a.lab} {a.has} {s} {t(s)} left.")


@scene(2)
def average(c):
    a = c.person()
    k = c.n(3, 4)
    avg = c.n(5, 60)
    xs = [avg + c.n(-4, 4) for _ in range(k - 1)]
    last = avg * k - sum(xs)
    if last < 1:
        return None
    xs.append(last)
    what = c.p("points", "goals", "pages", "books", "miles", "cookies")
    text = ", ".join(map(str, xs[:-1])) + f" and {xs[-1]}"
    s = xs[0]
    for x in xs[1:]:
        s = c.do("Sum", s, "+", x)
    r = c.do("Average", s, "/", k)
    return c.done(f"average_{k}", c.p(f"In {c.num(k)} {c.p('games', 'days', 'weeks')}, {a.s} {a.v(c.p('score', 'get', 'have'))} {text} {what}. What is the average?", f"What is the average of {text}?", f"{a.s} {a.v('count')} {text} {what}. What is the average number of {what}?"), r, f"the average is {r}.")


@scene(2)
def three_days(c):
    a, t = c.person(), c.thing()
    n = c.n(3, 60)
    verb = c.p("sell", "bake", "pick", "make", "find", "collect", "read", "buy")
    k = c.p("twice", "half", "more")
    d = c.n(1, 12)
    if k == "half" and n % 2:
        return None
    m = c.do("Second day", *((n, "*", 2) if k == "twice" else (n, "/", 2) if k == "half" else (n, "+", d)))
    rel = {"twice": f"{c.p('twice', 'two times')} as many as on Monday", "half": "half as many as on Monday", "more": f"{c.num(d)} more than on Monday"}[k]
    body = [f"{a.s} {a.v(verb)} {c.num(n)} {t(n)} on Monday and {rel} on Tuesday."]
    x = c.n(1, max(1, m - 1))
    two = c.maybe(0.4)
    if two:
        s = c.do("Both days", n, "+", m)
        return c.done(f"days_{k}", body + [c.p(f"How many {t.many} {a.does} {a.he} {verb} {c.p('in total', 'altogether', 'on both days')}?", f"How many {t.many} is that in total?")], s, f"that is {s} {t(s)} in total.")
    w = c.do("Third day", m, "-", x)
    body.append(f"On Wednesday {a.he} {a.v(verb)} {c.num(x)} {c.p('fewer', 'less')} than on Tuesday.")
    u = c.do("First two", n, "+", m)
    s = c.do("All three", u, "+", w)
    return c.done(f"days3_{k}", body + [c.p(f"How many {t.many} {a.does} {a.he} {verb} {c.p('in total', 'altogether', 'in the three days')}?", f"How many {t.many} is that in total?")], s, f"that is {s} {t(s)} in total.")


@scene()
def growing(c):
    a = c.person()
    n, d = c.n(3, 40), c.n(1, 10)
    what, verb = c.p(("push-ups", "do"), ("laps", "run"), ("pages", "read"), ("problems", "solve"), ("miles", "walk"), ("words", "write"))
    x = c.do("Second day", n, "+", d)
    y = c.do("Third day", x, "+", d)
    body = [f"{a.s} {a.v(verb)} {c.num(n)} {what} on the first day and {c.num(d)} more each day after that."]
    if c.maybe(0.4):
        return c.done("growing_day", body + [f"How many {what} {a.does} {a.he} {verb} on the third day?"], y, f"it is {y} {what}.")
    u = c.do("First two", n, "+", x)
    s = c.do("All three", u, "+", y)
    return c.done("growing_sum", body + [c.p(f"How many {what} {a.does} {a.he} {verb} in the first three days{c.p('', ' altogether')}?", f"How many {what} is that in three days?")], s, f"it is {s} {what} in total.")


@scene()
def points(c):
    a = c.person(i=False)
    k, p, j, q = c.n(2, 12), c.n(2, 10), c.n(1, 10), c.n(1, 9)
    u, v = c.p(("wins", "draws"), ("goals", "assists"), ("red cards", "blue cards"), ("hard questions", "easy questions"))
    x = c.do(cap(u), k, "*", p)
    y = c.do(cap(v), j, "*", q)
    s = c.do("Total", x, "+", y)
    return c.done("points_" + u.replace(" ", "_"), [f"In a game, each of the {u} gives {c.num(p)} points and each of the {v} gives {c.num(q)} point{_s(q)}." if " " in u else f"A {u[:-1]} gives {c.num(p)} points and {'an' if v[0] == 'a' else 'a'} {v[:-1]} gives {c.num(q)} point{_s(q)}.", f"{a.s} has {c.num(k)} {u} and {c.num(j)} {v if j > 1 or ' ' in v else v[:-1]}.", c.p(f"How many points does {a.he} have?", "How many points is that in total?")], s, f"{a.lab} has {s} points.")


@scene()
def laps(c):
    a = c.person()
    l, k, d = c.p(50, 100, 200, 250, 300, 400, 25), c.n(2, 9), c.n(2, 6)
    verb = c.p("run", "walk", "swim", "jog")
    u = c.do("Each day", l, "*", k)
    body = f"One lap is {l} meters. {a.s} {a.v(verb)} {c.num(k)} laps {c.p('a', 'every', 'each')} day."
    if c.maybe():
        return c.done("laps", [body, c.p(f"How many meters is that a day?", f"How many meters {a.does} {a.he} {verb} each day?")], u, f"that is {u} meters a day.")
    r = c.do(f"In {d} days", u, "*", d)
    return c.done("laps_days", [body, c.p(f"How many meters is that in {c.num(d)} days?", f"How many meters {a.does} {a.he} {verb} in {c.num(d)} days?")], r, f"that is {r} meters.")


@scene()
def heights(c):
    a, b, e = c.person(False, False), c.person(False, False), c.person(False, False)
    h, d, f = c.n(90, 180), c.n(2, 30), c.n(2, 20)
    what, more, less, unit = c.p(("tall", "taller", "shorter", "centimeters"), ("heavy", "heavier", "lighter", "kilograms"))
    if what == "heavy":
        h = c.n(30, 90)
    body = [f"{a.name} {'is ' + str(h) + ' ' + unit + ' tall' if what == 'tall' else 'weighs ' + str(h) + ' ' + unit}.", f"{b.name} is {c.num(d)} {unit} {more} than {a.name}."]
    m = c.do(b.lab, h, "+", d)
    if c.maybe(0.35):
        return c.done("height_two", body + [f"How {what} is {b.name}?"], m, f"{b.lab} {'is' if what == 'tall' else 'weighs'} {m} {unit}{' tall' if what == 'tall' else ''}.")
    body.append(f"{e.name} is {c.num(f)} {unit} {less} than {b.name}.")
    w = c.do(e.lab, m, "-", f)
    return c.done("height_three", body + [f"How {what} is {e.name}?"], w, f"{e.lab} {'is' if what == 'tall' else 'weighs'} {w} {unit}{' tall' if what == 'tall' else ''}.")


@scene()
def weight(c):
    k, w, e = c.n(2, 15), c.n(2, 40), c.n(5, 200)
    unit = c.p("kilograms", "kg", "pounds")
    what, base = c.p(("box", "cart"), ("crate", "truck"), ("bag", "wagon"), ("stone", "bucket"))
    whats = "boxes" if what == "box" else what + "s"
    c.names += [what, str(w)]
    u = c.do(cap(whats), k, "*", w)
    if c.maybe(0.4):
        return c.done("weight", [f"A {what} weighs {w} {unit}.", c.p(f"How much do {c.num(k)} {whats} weigh?", f"What is the weight of {c.num(k)} such {whats}?")], u, f"they weigh {u} {unit}.")
    r = c.do("Total", e, "+", u)
    return c.done("weight_sum", [f"An empty {base} weighs {e} {unit}.", f"It carries {c.num(k)} {whats} of {w} {unit} each.", c.p("How much does everything weigh?", "What is the total weight?")], r, f"the total weight is {r} {unit}.")


@scene()
def harvest(c):
    a, t = c.person(), c.thing("food")
    k, m, e = c.n(2, 20), c.n(3, 40), c.n(1, 30)
    n = k * m
    if e >= n:
        return None
    u = c.do("Picked", k, "*", m)
    r = c.do("Left", u, "-", e)
    return c.done("harvest", [c.p(f"{a.s} {a.v('pick')} {c.num(m)} {t.many} from each of {c.num(k)} {c.p('trees', 'plants', 'bushes')}.", f"{a.s} {a.v('have')} {c.num(k)} trees and {a.v('pick')} {c.num(m)} {t.many} from each."), f"{cap(a.he)} {a.v(c.p('sell', 'eat', 'give'))} {c.num(e)} of them{c.p('', '')}.", c.p(f"How many {t.many} are left?", f"How many {t.many} {'does' if a.third else 'do'} {a.he} have left?")], r, f"{a.lab} {a.has} {r} {t(r)} left.")


@scene()
def two_way_split(c):
    """Part goes away first, the rest is shared."""
    a, t = c.person(), c.thing()
    k, each, e = c.n(2, 9), c.n(2, 15), c.n(1, 30)
    n = k * each + e
    u = c.do("The rest", n, "-", e)
    r = c.do("Each", u, "/", k)
    return c.done("keep_share", [f"{a.s} {a.v('have')} {n} {t.many}.", c.p(f"{cap(a.he)} {a.v('keep')} {c.num(e)} and {a.v('share')} the rest equally among {c.num(k)} friends.", f"{cap(a.he)} {a.v('keep')} {c.num(e)} for {a.him if a.third else 'myself'}{'self' if a.third else ''} and {a.v('give')} the others to {c.num(k)} friends, the same number to each."), c.p(f"How many {t.many} does each friend get?", "How many does each friend get?")], r, f"each friend gets {r} {t(r)}.")


@scene()
def pool_share(c):
    """Two people put things together, then share."""
    a, b, t = c.person(False, False), c.person(False, False), c.thing()
    k = c.p(2, 2, 3, 4, 5, 6)
    each = c.n(3, 40)
    x = c.n(1, k * each - 1)
    u = c.do("Together", x, "+", k * each - x)
    r = c.do("Each", u, "/", k)
    return c.done("pool_share", [f"{a.name} {a.v('have')} {c.num(x)} {t(x)} and {b.name} {b.v('have')} {c.num(k * each - x)}.", f"They put them together and share them equally {'between the two of them' if k == 2 else 'among ' + c.num(k) + ' children'}.", c.p(f"How many {t.many} does each {'one' if k == 2 else 'child'} get?", "How many does each get?")], r, f"each one gets {r} {t(r)}.")
