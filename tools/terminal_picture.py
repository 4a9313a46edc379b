#!/usr/bin/env python3
"""Draws what commands print on a terminal as an SVG: terminal_picture.py OUT.svg 'COMMAND' ...

Each command really runs, behind a pty of 100 columns; dimmed text stays dimmed.
"""
import os
import pty
import re
import subprocess
import sys
from xml.sax.saxutils import escape

COLUMNS, CHAR, LINE, PAD = 100, 8.43, 20, 18


def capture(command):
    """Everything the command writes to its terminal."""
    ours, theirs = pty.openpty()
    env = dict(os.environ, TERM="xterm", COLUMNS=str(COLUMNS))
    env.pop("NO_COLOR", None)
    p = subprocess.Popen(command, shell=True, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True)
    os.close(theirs)
    out = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        out += part
    if p.wait():
        sys.exit(f"{command}: exit code {p.returncode}\n{out.decode(errors='replace')}")
    return out.decode()


def wrap(spans):
    """Spans of one line, (text, style), cut into rows of COLUMNS."""
    row, used = [], 0
    for text, style in spans:
        while text:
            part, text = text[:COLUMNS - used], text[COLUMNS - used:]
            row.append((part, style))
            used += len(part)
            if used == COLUMNS and text:
                yield row
                row, used = [], 0
    yield row


def rows_of(text):
    dim = False
    for line in text.replace("\r\n", "\n").rstrip("\n").split("\n"):
        line = line.rsplit("\r", 1)[-1]
        spans = []
        for part in re.split(r"(\x1b\[[0-9;?]*[a-zA-Z])", line):
            if part == "\x1b[2m":
                dim = True
            elif part == "\x1b[0m":
                dim = False
            elif part and not part.startswith("\x1b"):
                spans.append((part, "dim" if dim else ""))
        yield from wrap(spans)


def main(path, commands):
    rows = []
    for command in commands:
        if rows:
            rows.append([])
        rows += wrap([("$ ", "prompt"), (command, "typed")])
        rows += rows_of(capture(command))
    width, height = COLUMNS * CHAR + 2 * PAD, len(rows) * LINE + 2 * PAD
    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" viewBox="0 0 {width:.0f} {height}">',
           "<style>text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#e6e6e6;white-space:pre}"
           ".dim{fill:#8b8f98}.prompt{fill:#7bc275}.typed{font-weight:bold}</style>",
           f'<rect width="100%" height="100%" rx="8" fill="#1d1f23"/>']
    for i, row in enumerate(rows):
        spans = "".join(f'<tspan class="{style}">{escape(text)}</tspan>' if style else f"<tspan>{escape(text)}</tspan>" for text, style in row)
        if spans:
            svg.append(f'<text x="{PAD}" y="{PAD + LINE * i + 14}" xml:space="preserve">{spans}</text>')
    with open(path, "w") as f:
        f.write("\n".join(svg + ["</svg>", ""]))
    print(f"{path}: {len(rows)} rows")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
