#include "raw.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int raw_connect(const struct load *l, int n_window)
{
	struct sockaddr_in in = { .sin_family = AF_INET };
	char host[64];
	int port = 0;
	if (sscanf(l->url, "http://%63[0-9.]:%d", host, &port) != 2 || inet_pton(AF_INET, host, &in.sin_addr) != 1)
		die("--url is \"%s\", wanted http://ADDRESS:PORT", l->url);
	in.sin_port = htons((uint16_t)port);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && n_window)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &n_window, sizeof n_window);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&in, sizeof in) < 0) {
		int why = errno;
		close(fd);
		errno = why;
		return -1;
	}
	if (fd >= 0)
		fcntl(fd, F_SETFL, O_NONBLOCK);
	return fd;
}

void raw_request(struct buf *out, const char *path, const char *body)
{
	out->n = 0;
	if (!buf_printf(out, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", path, strlen(body), body))
		die("out of memory");
}
