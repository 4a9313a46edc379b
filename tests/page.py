"""page.py URL KEY [SHOTS_DIR] - uses the chat page as people do, in Chromium without a window, over its debugging pipe.

Needs nothing beyond Python and the browser.  Ends with 0, or says what was not as it should be.  With SHOTS_DIR it also
leaves pictures of the page there.
"""
import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

PROBLEM = "Maya has 24 apples. She gives 9 to her brother and then buys 3 bags with 6 apples each."
QUESTION = "How many apples does she have now?"
KEYS = {"Enter": 13, "Escape": 27, "Tab": 9}


class Browser:
    def __init__(self):
        self.home = tempfile.mkdtemp()
        ours, theirs = os.pipe(), os.pipe()
        self.to, self.back = ours[1], theirs[0]

        def fds():  # the browser reads 3 and writes 4
            a, b = fcntl.fcntl(ours[0], fcntl.F_DUPFD, 10), fcntl.fcntl(theirs[1], fcntl.F_DUPFD, 10)
            os.dup2(a, 3)
            os.dup2(b, 4)

        self.process = subprocess.Popen(
            ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe",
             "--user-data-dir=" + self.home, "about:blank"],
            preexec_fn=fds, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(ours[0])
        os.close(theirs[1])
        self.n, self.rest, self.session, self.said = 0, b"", None, []
        page = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for part in ("Page", "Runtime", "Log", "Network"):
            self.call(part + ".enable")

    def call(self, method, **params):
        self.n += 1
        message = {"id": self.n, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.rest:
                part = os.read(self.back, 1 << 20)
                if not part:
                    raise EOFError("the browser ended in " + method)
                self.rest += part
            one, self.rest = self.rest.split(b"\0", 1)
            reply = json.loads(one)
            if reply.get("id") == self.n:
                if "error" in reply:
                    raise RuntimeError(f"{method}: {reply['error']}")
                return reply["result"]
            self.said.append(reply)

    def js(self, code):
        r = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in r:
            raise RuntimeError(f"{code}: {r['exceptionDetails']}")
        return r["result"].get("value")

    def wait(self, condition, seconds=30):
        end = time.time() + seconds
        while not self.js(condition):
            if time.time() > end:
                raise TimeoutError("never came true: " + condition)
            time.sleep(0.02)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def key(self, key, shift=False):
        what = dict(key=key, code=key, windowsVirtualKeyCode=KEYS[key], modifiers=8 if shift else 0)
        self.call("Input.dispatchKeyEvent", type="keyDown", **what, **({"text": "\r"} if key == "Enter" else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **what)

    def size(self, width, height, scale=1, phone=False, dark=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone)
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def shot(self, path):
        with open(path, "wb") as f:
            f.write(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def requests(self):
        return [m["params"]["request"]["url"] for m in self.said if m.get("method") == "Network.requestWillBeSent"]

    def close(self):
        self.process.terminate()
        self.process.wait(20)
        shutil.rmtree(self.home, ignore_errors=True)


def check(what, got, wanted):
    if got != wanted:
        raise AssertionError(f"{what}: {got!r}, wanted {wanted!r}")


def use(b, url, key, shots):
    focus = "document.activeElement.id"
    last = "document.querySelector('#log .msg:last-child')"
    b.size(1000, 680)
    b.call("Page.navigate", url=url)
    b.wait("document.readyState === 'complete' && !!document.getElementById('settings')")

    # The server wants a key: the page asks for it, and keeps it nowhere but in its field.
    b.wait("document.getElementById('settings').open")
    check("asked for the key: focus", b.js(focus), "key")
    b.type(key)
    b.key("Enter")
    b.wait("document.getElementById('model').textContent === 'wordmath'")
    check("after the settings: focus", b.js(focus), "input")
    check("storage", b.js("localStorage.length + sessionStorage.length + document.cookie.length"), 0)
    b.wait("document.getElementById('n_running').textContent === '0'")

    # Shift+Enter starts a line, Enter sends.
    b.type(PROBLEM)
    b.key("Enter", shift=True)
    b.type(QUESTION)
    check("two lines", b.js("document.getElementById('input').value"), PROBLEM + "\n" + QUESTION)
    b.key("Enter")
    check("button", b.js("document.getElementById('go').textContent"), "Stop")
    b.wait("document.getElementById('go').textContent === 'Send'")
    answer = b.js(last + ".querySelector('.text').textContent")
    if "33" not in answer:
        raise AssertionError(f"the answer is {answer!r}")
    check("reasoning is folded", b.js(last + ".querySelector('details').open"), False)
    if "15" not in b.js(last + ".querySelector('details div').textContent"):
        raise AssertionError("no reasoning")
    note = b.js(last + ".querySelector('.note').textContent")
    if "tok/s" not in note or "first token after" not in note:
        raise AssertionError(f"the numbers are {note!r}")

    # Text stays text, whoever wrote it.
    b.type("<img src=x onerror=alert(1)> Ann has 3 apples and buys 4 more apples. How many apples does she have now?")
    b.key("Enter")
    b.wait("document.getElementById('go').textContent === 'Send'")
    check("markup in the log", b.js("document.querySelectorAll('#log img, #log script').length"), 0)
    if shots:
        b.js("document.querySelectorAll('#log details').forEach(d => { d.open = true; })")
        b.shot(shots + "/desktop.png")

    # A phone: nothing is wider than the screen.
    for width in (320, 390):
        b.size(width, 844, scale=2, phone=True, dark=True)
        check("width on a phone", b.js("document.documentElement.scrollWidth"), width)
    if shots:
        b.shot(shots + "/phone.png")
    b.js("document.getElementById('open_settings').click()")
    check("settings fit a phone", b.js("document.getElementById('settings').scrollWidth <= 390"), True)
    if shots:
        b.shot(shots + "/phone_settings.png")
    b.key("Escape")
    check("Esc closes the settings", b.js("document.getElementById('settings').open"), False)
    b.size(1000, 680)

    # Esc stops an answer.
    b.js("document.getElementById('fresh').click()")
    check("a new chat", b.js("document.querySelectorAll('#log .msg').length"), 0)
    b.call("Network.emulateNetworkConditions", offline=False, latency=5000, downloadThroughput=-1, uploadThroughput=-1)
    b.type("Why?")
    b.key("Enter")
    check("button", b.js("document.getElementById('go').textContent"), "Stop")
    b.key("Escape")
    b.wait("document.getElementById('go').textContent === 'Send'", 2)
    check("what is said of it", b.js(last + ".querySelector('.note').textContent"), "0 tokens · stopped")
    check("what the model will be told", b.js("turns.length"), 0)
    order = []
    for _ in range(5):
        b.key("Tab")
        order.append(b.js(focus))
    check("order of Tab", [x for x in order if x], ["go", "fresh", "open_settings", "scroll"])

    foreign = [u for u in b.requests() if not u.startswith((url, "data:"))]
    check("requests to others", foreign, [])
    thrown = [m["params"] for m in b.said if m.get("method") == "Runtime.exceptionThrown"]
    check("exceptions", thrown, [])
    blocked = [m["params"]["entry"]["text"] for m in b.said
               if m.get("method") == "Log.entryAdded" and "401" not in m["params"]["entry"]["text"]]
    check("complaints of the browser", blocked, [])


def main():
    browser = Browser()
    try:
        use(browser, sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None)
    except (AssertionError, TimeoutError) as e:
        sys.exit(f"page: {e}")
    finally:
        browser.close()


main()
