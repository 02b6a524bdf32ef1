/* SPDX-License-Identifier: MIT
 * connect_try.h. */
#include "connect_try.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static socklen_t make_address(int family, const char *address, uint16_t port, struct sockaddr_storage *out)
{
	struct sockaddr_in *four = (struct sockaddr_in *)out;
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)out;

	memset(out, 0, sizeof(*out));
	out->ss_family = (sa_family_t)family;
	four->sin_port = htons(port); /* at the same place in both */
	assert_int_equal(inet_pton(family, address, family == AF_INET ? (void *)&four->sin_addr : &six->sin6_addr), 1);
	return family == AF_INET ? sizeof(*four) : sizeof(*six);
}

int connect_try(struct attempt *a, int *keep)
{
	struct sockaddr_storage address;
	struct linger reset = {.l_onoff = 1}; /* leaves no port behind */
	socklen_t len = make_address(a->family, a->address, 9, &address);
	char host[INET6_ADDRSTRLEN];
	int fd = socket(a->family, a->type | SOCK_CLOEXEC, 0);

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	a->peer[0] = '\0';
	a->error = connect(fd, (struct sockaddr *)&address, len) == 0 ? 0 : errno;
	if (a->error == 0) {
		len = sizeof(address);
		getpeername(fd, (struct sockaddr *)&address, &len);
		inet_ntop(a->family,
			  a->family == AF_INET ? (void *)&((struct sockaddr_in *)&address)->sin_addr
					       : &((struct sockaddr_in6 *)&address)->sin6_addr,
			  host, sizeof(host));
		snprintf(a->peer, sizeof(a->peer), "%s %u", host, ntohs(((struct sockaddr_in *)&address)->sin_port));
	}
	if (keep)
		*keep = fd;
	else
		close(fd);
	return a->error;
}

int connect_serve(const char *address, char url[64])
{
	int family = strchr(address, ':') ? AF_INET6 : AF_INET, fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_storage a;
	socklen_t len = make_address(family, address, 0, &a);

	assert_int_equal(bind(fd, (struct sockaddr *)&a, len), 0);
	assert_int_equal(listen(fd, 512), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	snprintf(url, 64, family == AF_INET ? "http://%s:%u" : "http://[%s]:%u", address,
		 ntohs(((struct sockaddr_in *)&a)->sin_port));
	return fd;
}

const char *connect_peer(const char *url)
{
	static char peer[80];
	const char *colon = strrchr(url, ':');
	bool six = url[7] == '[';

	snprintf(peer, sizeof(peer), "%.*s %s", (int)(colon - url) - 7 - 2 * six, url + 7 + six, colon + 1);
	return peer;
}
