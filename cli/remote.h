/* remote.h - what `moxie bench serving` and `moxie eval --base-url` share: a server somewhere, asked over HTTP. */
#ifndef CLI_REMOTE_H
#define CLI_REMOTE_H

#include <jansson.h>

#include "cli.h"
#include "client/client.h"

struct remote {
	struct client *client;
	char model[256];       /* what requests call the model */
};
/* The address and the key are --base-url and --api-key or --api-key-file, else OPENAI_API_KEY; the model is --served-model-name, else the first
 * of /v1/models.  Returns 0 or an exit code, having said why. */
int remote_open(struct remote *r, const struct opts *o);
void remote_close(struct remote *r);
/* GET, or POST with body: the JSON of a 200, or NULL; then why (may be NULL) says what came instead. */
json_t *remote_json(struct remote *r, const char *path, const char *body, char why[200]);
/* The answer's "error.message", or its first line, after its status. */
void remote_error(const struct call *c, char out[200]);

#endif
