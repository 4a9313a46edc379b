/* test_terminal.c - the command on a terminal: `moxie chat` and `moxie run` behind a pty, as a person types.
 *
 * The program is the one beside this test.  The model is a random checkpoint that it writes first: what it answers is noise, but
 * noise that goes on until the context is full, long enough to be interrupted.
 */
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test.h"

static char moxie[4200], model[64];

static struct {
	int fd;
	pid_t pid;
	char out[1 << 20];
	size_t n, seen; /* seen: what wait_for has passed */
} term;

static void start(char *const argv[])
{
	struct winsize ws = { .ws_row = 24, .ws_col = 80 };
	term.n = term.seen = 0;
	term.pid = forkpty(&term.fd, NULL, NULL, &ws);
	if (term.pid == 0) {
		setenv("TERM", "xterm", 1);
		unsetenv("NO_COLOR");
		execv(moxie, argv);
		_exit(127);
	}
}

static void start_chat(char *flag, char *value)
{
	char *argv[] = { "moxie", "chat", model, "--threads", "1", "--ignore-eos", flag, value, NULL };
	start(argv);
}

/* Reads until text appears behind what was seen, at most 30 s.  text NULL: until the end of output. */
static bool wait_for(const char *text)
{
	time_t end = time(NULL) + 30;
	for (;;) {
		term.out[term.n] = 0;
		char *at = text ? memmem(term.out + term.seen, term.n - term.seen, text, strlen(text)) : NULL;
		if (at) {
			term.seen = (size_t)(at - term.out) + strlen(text);
			return true;
		}
		struct pollfd p = { .fd = term.fd, .events = POLLIN };
		if (time(NULL) > end || term.n + 4096 >= sizeof term.out)
			return false;
		if (poll(&p, 1, 500) <= 0)
			continue;
		ssize_t n = read(term.fd, term.out + term.n, 4096);
		if (n <= 0)
			return !text;
		term.n += (size_t)n;
	}
}

static void type(const char *s)
{
	for (size_t n = strlen(s); n;) {
		ssize_t k = write(term.fd, s, n);
		if (k <= 0)
			break;
		s += k, n -= (size_t)k;
	}
}

/* The exit code, or -1 if it does not end. */
static int finish(void)
{
	int st = -1, rc = -1;
	bool ended = wait_for(NULL);
	if (!ended)
		kill(term.pid, SIGKILL);
	if (waitpid(term.pid, &st, 0) == term.pid && ended)
		rc = WIFEXITED(st) ? WEXITSTATUS(st) : 128 + WTERMSIG(st);
	close(term.fd);
	return rc;
}

#define WAIT(text) CHECK(wait_for(text), "no \"%s\"; the screen: %s", text, term.out)
#define ENDS_WITH(code) do { int got_ = finish(); CHECK(got_ == code, "exit code %d; the screen: %s", got_, term.out); } while (0)

TEST(chat_help_and_quit)
{
	start_chat("--max-tokens", "4");
	WAIT("> ");
	type("/help\r");
	WAIT("/reset");
	type("/nonsense\r");
	WAIT("unknown command");
	type("/effort high\r");
	WAIT("(high)");
	type("/stats\r");
	WAIT("nothing was answered");
	type("/quit\r");
	ENDS_WITH(0);
}

TEST(chat_answers_and_ends_at_ctrl_d)
{
	start_chat("--max-tokens", "8");
	WAIT("> ");
	type("hello\r");
	WAIT("--max-tokens");
	WAIT("> ");
	type("/stats\r");
	WAIT("# 8 tok");
	WAIT("logits #");
	WAIT("> ");
	type("\004");
	ENDS_WITH(0);
}

TEST(chat_ctrl_c_stops_the_answer_only)
{
	start_chat("--context-length", "100000");
	for (int i = 0; i < 2; i++) {
		WAIT("> ");
		type("go on\r");
		WAIT("[?2004l"); /* the line is taken */
		usleep(200000);
		type("\003");
		WAIT("(stopped)");
	}
	WAIT("> ");
	type("\003");
	WAIT("^C");
	WAIT("> ");
	type("/quit\r");
	ENDS_WITH(0);
}

TEST(chat_multi_line_and_editing)
{
	start_chat("--max-tokens", "2");
	WAIT("> ");
	type("one\\\r");
	WAIT("... ");
	type("two\r");
	WAIT("--max-tokens");
	WAIT("> ");
	type("/statX\177s\033[Dz\033[3~\001\005"); /* backspace, left, delete, home, end */
	WAIT("/stat");
	type("\025/helX\177p\r");                  /* Ctrl-U */
	WAIT("/reset ");
	WAIT("> ");
	type("\033[A");                            /* up */
	WAIT("/help");
	type("\025\xc3\xa9\xe6\xbc\xa2\177\177/quit\r"); /* two characters of several bytes, taken back */
	ENDS_WITH(0);
}

TEST(chat_takes_a_long_pasted_line)
{
	static char line[20000];
	start_chat("--context-length", "100000");
	WAIT("> ");
	memset(line, 'a', sizeof line - 1);
	type("\033[200~");
	type(line);
	type("\nsecond line\033[201~");
	WAIT("second line");
	type("\r");
	WAIT("[?2004l");
	usleep(200000);
	type("\003");
	WAIT("(stopped)");
	WAIT("> ");
	type("\004");
	ENDS_WITH(0);
}

TEST(run_on_a_terminal_ends_at_ctrl_c)
{
	char *argv[] = { "moxie", "run", model, "--threads", "1", "--raw", "--ignore-eos", "-c", "100000", "go", NULL };
	start(argv);
	WAIT("\n"); /* it is answering */
	type("\003");
	WAIT("interrupted");
	ENDS_WITH(130);
}

int main(int argc, char **argv)
{
	char cmd[8600];
	const char *slash = strrchr(argv[0], '/');
	snprintf(moxie, sizeof moxie, "%.*s/moxie", slash ? (int)(slash - argv[0]) : 1, slash ? argv[0] : ".");
	snprintf(model, sizeof model, "/tmp/moxie-terminal-%d", (int)getpid());
	snprintf(cmd, sizeof cmd, "'%s' synth gpt-oss-tiny %s >/dev/null", moxie, model);
	bool list = argc > 1 && !strcmp(argv[1], "--list");
	if (!list && system(cmd)) {
		printf("%s failed\n0 passed, 1 failed, 0 skipped\n", cmd);
		return 1;
	}
	int rc = test_main(argc, argv);
	snprintf(cmd, sizeof cmd, "rm -r %s", model);
	return list || !system(cmd) ? rc : 1;
}
