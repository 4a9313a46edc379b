/* generate.c - the smallest program on libmoxie: asks a model one question and prints its answer.
 *
 *     cc generate.c $(pkg-config --cflags --libs moxie) && ./a.out models/wordmath "Ann has 3 apples and buys 4. How many?"
 */
#include <moxie.h>
#include <stdio.h>
#include <string.h>

static int print(void *ud, const struct moxie_event *ev, int32_t id)
{
	(void)ud, (void)id;
	if (!strcmp(ev->channel, "final"))
		fwrite(ev->text, 1, ev->n_text, stdout);
	return 0;
}

int main(int argc, char **argv)
{
	struct moxie_err err = { 0 };
	struct moxie_model_params mp = { .struct_size = sizeof mp, .path = argv[1] };
	struct moxie_generate_params gp = { .struct_size = sizeof gp, .max_tokens = 1024, .on_event = print };
	struct moxie_message ask = { .role = MOXIE_ROLE_USER, .content = argc > 2 ? argv[2] : "" };
	moxie_model *m = NULL;
	moxie_session *s = NULL;
	int32_t ids[1024];
	size_t n;
	int rc = argc == 3 ? moxie_model_open(&m, &mp, &err) : MOXIE_E_ARG;
	if (!rc) rc = moxie_session_create(&s, m, NULL, &err);
	if (!rc) rc = moxie_chat_render(m, NULL, &ask, 1, ids, 1024, &n, &err);
	if (!rc) rc = moxie_generate(s, ids, n, &gp, NULL, &err);
	if (rc) fprintf(stderr, "%s\n", *err.text ? err.text : moxie_strerror(rc));
	else puts("");
	moxie_session_free(s);
	moxie_model_free(m);
	return rc != 0;
}
