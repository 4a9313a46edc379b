#include "remote.h"

#include <stdlib.h>
#include <string.h>

struct copied {
	json_t *json;
	char why[200];
};

void remote_error(const struct call *c, char out[200])
{
	json_t *j = c->n_answer ? json_loadb(c->answer, c->n_answer, JSON_ALLOW_NUL, NULL) : NULL;
	const char *text = json_string_value(json_object_get(json_object_get(j, "error"), "message"));
	if (c->error[0])
		snprintf(out, 200, "%s", c->error);
	else
		snprintf(out, 200, "HTTP %d: %.*s", c->status, text ? 150 : (int)strcspn(c->answer, "\r\n"), text ? text : c->answer);
	json_decref(j);
}

static void on_json(struct call *c)
{
	struct copied *to = c->ud;
	if (!c->error[0] && c->status == 200)
		to->json = json_loadb(c->answer, c->n_answer, JSON_ALLOW_NUL, NULL);
	if (!to->json && !c->error[0] && c->status == 200)
		snprintf(to->why, sizeof to->why, "the answer is not JSON");
	else
		remote_error(c, to->why);
}

json_t *remote_json(struct remote *r, const char *path, const char *body, char why[200])
{
	struct copied got = { 0 };
	struct call c = { .path = path, .body = body, .n_body = body ? strlen(body) : 0, .on_done = on_json, .ud = &got };
	client_wait(r->client, &c);
	if (why)
		snprintf(why, 200, "%s", got.why);
	return got.json;
}

int remote_open(struct remote *r, const struct opts *o)
{
	struct moxie_err err = { 0 };
	char *key = NULL, why[200];
	*r = (struct remote){ 0 };
	int rc = key_choose(o, &key);
	if (rc)
		return rc;
	const char *env = getenv("OPENAI_API_KEY");
	rc = client_open(&r->client, o->base_url ? o->base_url : "http://127.0.0.1:30000", key ? key : env, &err);
	free(key);
	if (rc)
		return lib_error(&err);
	if (o->served_name) {
		snprintf(r->model, sizeof r->model, "%s", o->served_name);
		return 0;
	}
	json_t *list = remote_json(r, "/v1/models", NULL, why);
	const char *id = json_string_value(json_object_get(json_array_get(json_object_get(list, "data"), 0), "id"));
	if (id)
		snprintf(r->model, sizeof r->model, "%s", id);
	else
		rc = bad_input("%s/v1/models names no model (%s); is the server there?", o->base_url ? o->base_url : "http://127.0.0.1:30000",
		               list ? "no data[0].id" : why);
	json_decref(list);
	if (rc)
		remote_close(r);
	return rc;
}

void remote_close(struct remote *r)
{
	client_close(r->client);
	r->client = NULL;
}
