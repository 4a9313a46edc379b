/* line.c - a small line editor: UTF-8, history, lines longer than the screen scroll sideways, pasted newlines stay in the line. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>
#include <wchar.h>

#include "cli.h"

#define MAX_HISTORY 200

static char *history[MAX_HISTORY];
static int n_history;

struct editor {
	const char *prompt;
	struct text t;
	size_t at;      /* the cursor, in bytes */
	int back;       /* history lines gone back */
	char *draft;    /* the new line, while history shows */
};

enum key { KEY_NONE = 256, KEY_LEFT, KEY_RIGHT, KEY_UP, KEY_DOWN, KEY_HOME, KEY_END, KEY_DEL, KEY_PASTE, KEY_PASTE_END, KEY_EOF };

static int read_byte(void)
{
	unsigned char c;
	ssize_t n;
	do
		n = read(STDIN_FILENO, &c, 1);
	while (n < 0 && errno == EINTR);
	return n == 1 ? c : KEY_EOF;
}

/* A byte, or what an escape sequence means. */
static int read_key(void)
{
	static const struct {
		const char *seq;
		int key;
	} keys[] = {
		{ "[A", KEY_UP }, { "[B", KEY_DOWN }, { "[C", KEY_RIGHT }, { "[D", KEY_LEFT }, { "[H", KEY_HOME }, { "[F", KEY_END },
		{ "OH", KEY_HOME }, { "OF", KEY_END }, { "[1~", KEY_HOME }, { "[4~", KEY_END }, { "[3~", KEY_DEL }, { "[200~", KEY_PASTE },
		{ "[201~", KEY_PASTE_END },
	};
	int c = read_byte();
	if (c != 27)
		return c;
	char seq[16] = "";
	size_t n = 0;
	while (n + 1 < sizeof seq) {
		c = read_byte();
		if (c == KEY_EOF)
			return c;
		seq[n++] = (char)c;
		if (n > 1 ? c >= 0x40 : c != '[' && c != 'O')
			break;
	}
	for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
		if (!strcmp(keys[i].seq, seq))
			return keys[i].key;
	return KEY_NONE;
}

static size_t char_before(const struct text *t, size_t at)
{
	if (at)
		at--;
	while (at && ((unsigned char)t->p[at] & 0xc0) == 0x80)
		at--;
	return at;
}

static size_t char_after(const struct text *t, size_t at)
{
	if (at < t->n)
		at++;
	while (at < t->n && ((unsigned char)t->p[at] & 0xc0) == 0x80)
		at++;
	return at;
}

/* Columns of the character at p, of n bytes. */
static int columns(const char *p, size_t n)
{
	wchar_t wc;
	mbstate_t st = { 0 };
	if (n == 1 && (unsigned char)*p < 0x20)
		return 1; /* shown as a blank */
	int w = mbrtowc(&wc, p, n, &st) <= n ? wcwidth(wc) : 1;
	return w < 0 ? 1 : w;
}

/* Writes the part of the line around the cursor that fits one row. */
static void draw(const struct editor *e)
{
	struct winsize ws;
	int width = ioctl(STDOUT_FILENO, TIOCGWINSZ, &ws) == 0 && ws.ws_col > 10 ? ws.ws_col : 80;
	int room = width - (int)strlen(e->prompt) - 1;
	size_t from = e->at;
	int before = 0;
	while (from) {
		size_t prev = char_before(&e->t, from);
		int w = columns(e->t.p + prev, from - prev);
		if (before + w > room)
			break;
		before += w, from = prev;
	}
	fputs("\r", stdout);
	fputs(e->prompt, stdout);
	int used = 0;
	for (size_t i = from, next; i < e->t.n; i = next) {
		next = char_after(&e->t, i);
		used += columns(e->t.p + i, next - i);
		if (used > room)
			break;
		if ((unsigned char)e->t.p[i] < 0x20)
			putchar(' ');
		else
			fwrite(e->t.p + i, 1, next - i, stdout);
	}
	printf("\033[K\r\033[%dC", (int)strlen(e->prompt) + before);
	fflush(stdout);
}

static void insert(struct editor *e, const char *p, size_t n)
{
	text_add(&e->t, p, n);
	memmove(e->t.p + e->at + n, e->t.p + e->at, e->t.n - n - e->at);
	memcpy(e->t.p + e->at, p, n);
	e->at += n;
}

static void erase(struct editor *e, size_t from, size_t to)
{
	if (from >= to)
		return;
	memmove(e->t.p + from, e->t.p + to, e->t.n - to + 1);
	e->t.n -= to - from;
	e->at = from;
}

static void replace(struct editor *e, const char *p)
{
	e->t.n = e->at = 0;
	text_add(&e->t, p, strlen(p));
	e->at = e->t.n;
}

static void move_in_history(struct editor *e, int by)
{
	int back = e->back + by;
	if (back < 0 || back > n_history)
		return;
	if (e->back == 0) {
		free(e->draft);
		e->draft = strdup(e->t.p ? e->t.p : "");
	}
	e->back = back;
	replace(e, back ? history[n_history - back] : e->draft ? e->draft : "");
}

static size_t word_start(const struct editor *e)
{
	size_t i = e->at;
	while (i && e->t.p[i - 1] == ' ')
		i--;
	while (i && e->t.p[i - 1] != ' ')
		i--;
	return i;
}

enum done { GO_ON, DONE, END_OF_INPUT };

static enum done on_key(struct editor *e, int key)
{
	static bool pasting;
	if (pasting && (key == '\r' || key == '\n' || key == '\t')) {
		insert(e, key == '\t' ? " " : "\n", 1);
		return GO_ON;
	}
	switch (key) {
	case KEY_EOF: return END_OF_INPUT;
	case KEY_PASTE: pasting = true; break;
	case KEY_PASTE_END: pasting = false; break;
	case '\r':
	case '\n': return DONE;
	case 3: /* Ctrl-C */
		e->t.n = e->at = 0;
		fputs("^C", stdout);
		return DONE;
	case 4: /* Ctrl-D */
		if (!e->t.n)
			return END_OF_INPUT;
		erase(e, e->at, char_after(&e->t, e->at));
		break;
	case KEY_DEL: erase(e, e->at, char_after(&e->t, e->at)); break;
	case 8:
	case 127: erase(e, char_before(&e->t, e->at), e->at); break;
	case 21: erase(e, 0, e->at); break;                /* Ctrl-U */
	case 11: erase(e, e->at, e->t.n), e->at = e->t.n; break; /* Ctrl-K */
	case 23: erase(e, word_start(e), e->at); break;    /* Ctrl-W */
	case 1:
	case KEY_HOME: e->at = 0; break;
	case 5:
	case KEY_END: e->at = e->t.n; break;
	case 2:
	case KEY_LEFT: e->at = char_before(&e->t, e->at); break;
	case 6:
	case KEY_RIGHT: e->at = char_after(&e->t, e->at); break;
	case 16:
	case KEY_UP: move_in_history(e, 1); break;
	case 14:
	case KEY_DOWN: move_in_history(e, -1); break;
	case 12: fputs("\033[H\033[2J", stdout); break;    /* Ctrl-L */
	default:
		if (key >= 0x20 && key < 256)
			insert(e, &(char){ (char)key }, 1);
	}
	return GO_ON;
}

static void remember(const char *line)
{
	if (!*line || (n_history && !strcmp(history[n_history - 1], line)))
		return;
	if (n_history == MAX_HISTORY) {
		free(history[0]);
		memmove(history, history + 1, (MAX_HISTORY - 1) * sizeof *history);
		n_history--;
	}
	char *copy = strdup(line);
	if (copy)
		history[n_history++] = copy;
}

static bool more_waits(void)
{
	int n = 0;
	return ioctl(STDIN_FILENO, FIONREAD, &n) == 0 && n > 0;
}

static char *edit(const char *prompt)
{
	struct editor e = { .prompt = prompt };
	enum done done = GO_ON;
	text_add(&e.t, "", 0);
	draw(&e);
	while (done == GO_ON) {
		done = on_key(&e, read_key());
		if (done == GO_ON && !more_waits()) /* a paste is drawn once */
			draw(&e);
	}
	if (done == DONE && e.t.n) /* what was edited in one sliding row stays on the screen whole */
		printf("\r\033[K%s%.*s", prompt, (int)e.t.n, e.t.p);
	else
		draw(&e);
	free(e.draft);
	if (done == END_OF_INPUT) {
		free(e.t.p);
		return NULL;
	}
	e.t.p[e.t.n] = 0;
	remember(e.t.p);
	return e.t.p;
}

static char *read_plain(void)
{
	char *line = NULL;
	size_t cap = 0;
	interrupt_reads(true);
	ssize_t n = getline(&line, &cap, stdin);
	interrupt_reads(false);
	if (n < 0) {
		free(line);
		return NULL;
	}
	if (n && line[n - 1] == '\n')
		line[n - 1] = 0;
	return line;
}

char *line_read(const char *prompt)
{
	struct termios old, raw;
	if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO) || tcgetattr(STDIN_FILENO, &old))
		return read_plain();
	raw = old;
	raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO | ISIG | IEXTEN);
	raw.c_iflag &= ~(tcflag_t)(IXON | ICRNL);
	raw.c_cc[VMIN] = 1;
	raw.c_cc[VTIME] = 0;
	tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
	fputs("\033[?2004h", stdout);
	char *line = edit(prompt);
	tcsetattr(STDIN_FILENO, TCSADRAIN, &old);
	fputs("\033[?2004l\n", stdout);
	fflush(stdout);
	return line;
}
