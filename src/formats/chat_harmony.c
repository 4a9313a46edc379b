/* chat_harmony.c - a conversation to the ids that GPT-OSS expects.
 *
 * Header words, bodies and markers are encoded one by one, as openai-harmony does: markers by id, everything else as text in
 * which no marker is recognised.
 */
#include <string.h>

#include "formats/harmony_int.h"

static const char identity[] = "You are ChatGPT, a large language model trained by OpenAI.";

struct render {
	const struct tokenizer *t;
	struct ids *out;
	struct moxie_err *err;
};

bool harmony_word(const char *s)
{
	size_t n = 0;
	if (!s)
		return false;
	for (; s[n] && n <= 256; n++)
		if ((unsigned char)s[n] <= ' ' || s[n] == 0x7f || s[n] == '<')
			return false;
	return n > 0 && n <= 256;
}

static int mark(struct render *r, const char *name)
{
	int32_t id = tokenizer_special(r->t, name);
	if (id < 0)
		return err_set(r->err, MOXIE_E_UNSUPPORTED, "the tokenizer has no special token %s, which the harmony format needs", name);
	return ids_push(r->out, id) ? 0 : err_nomem(r->err, r->out->n * sizeof *r->out->v, "the ids of a prompt");
}

static int text(struct render *r, const char *s)
{
	return tokenizer_encode(r->t, s, strlen(s), false, r->out, r->err);
}

/* Text that stands together in a header is encoded together. */
static int text2(struct render *r, const char *a, const char *b)
{
	struct buf s = { 0 };
	int rc = buf_puts(&s, a) && buf_puts(&s, b) ? tokenizer_encode(r->t, s.p, s.n, false, r->out, r->err) :
	                                               err_nomem(r->err, strlen(b), "a message header");
	buf_free(&s);
	return rc;
}

/* One message as it stands in the prompt.  to, channel and content_type may be NULL. */
struct line {
	const char *role, *name, *to, *channel, *content_type, *content;
	bool call;
};

static int put_line(struct render *r, const struct line *m)
{
	static const char constrain[] = "<|constrain|>";
	const size_t n_constrain = sizeof constrain - 1;
	int rc;
	if ((rc = mark(r, "<|start|>")) || (rc = text(r, m->role)) || (m->name && (rc = text2(r, ":", m->name))) ||
	    (m->to && (rc = text2(r, " to=", m->to))))
		return rc;
	if (m->channel && ((rc = mark(r, "<|channel|>")) || (rc = text(r, m->channel))))
		return rc;
	if (m->content_type && !strncmp(m->content_type, constrain, n_constrain)) {
		if ((rc = text(r, " ")) || (rc = mark(r, constrain)) || (rc = text(r, m->content_type + n_constrain)))
			return rc;
	} else if (m->content_type && (rc = text2(r, " ", m->content_type))) {
		return rc;
	}
	if ((rc = mark(r, "<|message|>")) || (rc = text(r, m->content)))
		return rc;
	return mark(r, m->call ? "<|call|>" : "<|end|>");
}

static int put_system(struct render *r, const struct moxie_chat_params *p)
{
	static const char *const effort[] = { "medium", "low", "high" };
	struct buf s = { 0 };
	const char *who = p->identity ? p->identity : identity;
	if ((unsigned)p->effort > MOXIE_EFFORT_HIGH)
		return err_set(r->err, MOXIE_E_ARG, "reasoning effort %d, wanted 0 .. %d", (int)p->effort, MOXIE_EFFORT_HIGH);
	bool ok = buf_puts(&s, who) && buf_puts(&s, *who ? "\nKnowledge cutoff: 2024-06" : "Knowledge cutoff: 2024-06");
	if (p->date)
		ok = ok && buf_puts(&s, "\nCurrent date: ") && buf_puts(&s, p->date);
	ok = ok && buf_puts(&s, "\n\nReasoning: ") && buf_puts(&s, effort[p->effort]) &&
	     buf_puts(&s, "\n\n# Valid channels: analysis, commentary, final. Channel must be included for every message.");
	if (p->n_tool)
		ok = ok && buf_puts(&s, "\nCalls to these tools must go to the commentary channel: 'functions'.");
	int rc = ok ? put_line(r, &(struct line){ .role = "system", .content = s.p }) : err_nomem(r->err, s.n, "the system message");
	buf_free(&s);
	return rc;
}

static bool instructs(const struct moxie_message *m)
{
	return m->role == MOXIE_ROLE_SYSTEM || m->role == MOXIE_ROLE_DEVELOPER;
}

/* The developer message: the n messages' texts as instructions, then the tools, then the form of the answer.  Nothing when there is
 * none of these. */
static int put_developer(struct render *r, const struct moxie_chat_params *p, const struct moxie_message *msg, size_t n)
{
	struct buf s = { 0 };
	bool ok = true;
	int rc = 0;
	for (size_t i = 0; i < n; i++)
		if (msg[i].content && *msg[i].content)
			ok = ok && buf_puts(&s, s.n ? "\n\n" : "# Instructions\n\n") && buf_puts(&s, msg[i].content);
	if (p->n_tool && s.n)
		ok = ok && buf_puts(&s, "\n\n");
	if (!ok)
		rc = err_nomem(r->err, s.n, "the developer message");
	else if (p->n_tool)
		rc = harmony_tools(p->tools, p->n_tool, &s, r->err);
	if (!rc && p->format_schema) {
		ok = buf_puts(&s, s.n ? "\n\n" : "") && buf_puts(&s, "# Response Formats\n\n## ") &&
		     buf_puts(&s, p->format_name ? p->format_name : "answer") && buf_puts(&s, "\n\n") && buf_puts(&s, p->format_schema);
		rc = ok ? 0 : err_nomem(r->err, s.n, "the developer message");
	}
	if (!rc && s.n)
		rc = put_line(r, &(struct line){ .role = "developer", .content = s.p });
	buf_free(&s);
	return rc;
}

static bool is_channel(const char *s)
{
	return !strcmp(s, "analysis") || !strcmp(s, "commentary") || !strcmp(s, "final");
}

/* The channel that an assistant's message has when none is given. */
static const char *channel_of(const struct moxie_message *m)
{
	return m->channel ? m->channel : m->recipient ? "commentary" : "final";
}

static int put_message(struct render *r, const struct moxie_message *m)
{
	struct line line = { .name = m->name, .to = m->recipient, .channel = m->channel, .content_type = m->content_type,
	                     .content = m->content ? m->content : "" };
	if (m->name && !harmony_word(m->name))
		return err_set(r->err, MOXIE_E_ARG, "the name \"%.60s\" is empty, too long or has white space or '<' in it", m->name);
	if (m->recipient && !harmony_word(m->recipient))
		return err_set(r->err, MOXIE_E_ARG, "the recipient \"%.60s\" is empty, too long or has white space or '<' in it", m->recipient);
	const char *kind = m->content_type;
	if (kind && !harmony_word(strncmp(kind, "<|constrain|>", 13) ? kind : kind + 13))
		return err_set(r->err, MOXIE_E_ARG, "the content type \"%.60s\" is empty, too long or has white space or '<' in it", kind);
	if (m->channel && !is_channel(m->channel))
		return err_set(r->err, MOXIE_E_ARG, "the channel \"%.60s\", wanted analysis, commentary or final", m->channel);
	switch (m->role) {
	case MOXIE_ROLE_SYSTEM:
	case MOXIE_ROLE_DEVELOPER:
		return put_developer(r, &(struct moxie_chat_params){ 0 }, m, 1);
	case MOXIE_ROLE_USER:
		line.role = "user";
		break;
	case MOXIE_ROLE_ASSISTANT:
		line.role = "assistant";
		line.channel = channel_of(m);
		line.call = m->recipient && strcmp(m->recipient, "all") != 0;
		break;
	case MOXIE_ROLE_TOOL:
		if (!m->name)
			return err_set(r->err, MOXIE_E_ARG, "a tool's message needs the tool's name, such as functions.get_x");
		line.role = m->name;
		line.name = NULL;
		line.to = m->recipient ? m->recipient : "assistant";
		line.channel = m->channel ? m->channel : "commentary";
		break;
	default:
		return err_set(r->err, MOXIE_E_ARG, "the role %d, wanted 0 .. %d", (int)m->role, MOXIE_ROLE_TOOL);
	}
	if (line.to && !strcmp(line.to, "all"))
		line.to = NULL;
	return put_line(r, &line);
}

/* Analysis before the first final answer is dropped when the assistant's last message is a final one; returns its index. */
static size_t drop_before(const struct moxie_message *msg, size_t n_msg)
{
	size_t first = n_msg, last = n_msg;
	for (size_t i = 0; i < n_msg; i++) {
		if (msg[i].role != MOXIE_ROLE_ASSISTANT)
			continue;
		last = i;
		if (first == n_msg && !strcmp(channel_of(&msg[i]), "final"))
			first = i;
	}
	return last < n_msg && !strcmp(channel_of(&msg[last]), "final") ? first : 0;
}

int harmony_render(const struct tokenizer *t, const struct moxie_chat_params *p, const struct moxie_message *msg, size_t n_msg,
                   bool generate, struct ids *out, struct moxie_err *err)
{
	static const struct moxie_chat_params none;
	struct render r = { .t = t, .out = out, .err = err };
	size_t n_before = out->n, n_lead = 0;
	if (!p)
		p = &none;
	while (n_lead < n_msg && instructs(&msg[n_lead]))
		n_lead++;
	int rc = put_system(&r, p);
	if (rc)
		err_prefix(err, "the system message");
	if (!rc && (rc = put_developer(&r, p, msg, n_lead)))
		err_prefix(err, "the developer message");
	size_t drop = drop_before(msg, n_msg);
	for (size_t i = n_lead; !rc && i < n_msg; i++) {
		if (i < drop && msg[i].role == MOXIE_ROLE_ASSISTANT && !strcmp(channel_of(&msg[i]), "analysis"))
			continue;
		rc = put_message(&r, &msg[i]);
		if (rc)
			err_prefix(err, "message %zu", i);
	}
	if (!rc && generate && !(rc = mark(&r, "<|start|>")))
		rc = text(&r, "assistant");
	if (rc)
		out->n = n_before;
	return rc;
}
