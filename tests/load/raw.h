/* raw.h - sockets of clients that do not behave. */
#ifndef TESTS_LOAD_RAW_H
#define TESTS_LOAD_RAW_H

#include "load.h"

/* A connected socket that does not block, or -1 with errno.  n_window: bytes it lets the server send ahead; 0: as usual. */
int raw_connect(const struct load *l, int n_window);
/* POST path with body as it goes over the wire. */
void raw_request(struct buf *out, const char *path, const char *body);

#endif
