/* SPDX-License-Identifier: MIT
 * See net.h. Namespaces by unshare and setns, devices and addresses by `ip`. */
#include "net.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "place.h"

static int here(void)
{
	int fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		place_fail("cannot open /proc/thread-self/ns/net: %s", strerror(errno));
	return fd;
}

void net_enter(int namespace)
{
	if (setns(namespace, CLONE_NEWNET) != 0)
		place_fail("cannot enter a network namespace: %s", strerror(errno));
}

static int run(char *out, size_t size, const char *format, va_list arguments)
{
	char command[2048], spare[512];
	size_t n = 0, k;

	if ((size_t)vsnprintf(command, sizeof(command) - 5, format, arguments) >= sizeof(command) - 5)
		place_fail("a command is too long: %s", command);
	strcat(command, " 2>&1");
	fflush(NULL);
	FILE *f = popen(command, "re");
	if (!f)
		place_fail("cannot run `%s`: %s", command, strerror(errno));
	while ((k = n + 1 < size ? fread(out + n, 1, size - 1 - n, f) : fread(spare, 1, sizeof(spare), f)) > 0)
		n += n + 1 < size ? k : 0;
	out[n] = '\0';
	int status = pclose(f);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int net_run(char *out, size_t size, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	int rc = run(out, size, format, arguments);
	va_end(arguments);
	return rc;
}

void net_do(const char *format, ...)
{
	char out[4096];
	va_list arguments;

	va_start(arguments, format);
	int rc = run(out, sizeof(out), format, arguments);
	va_end(arguments);
	if (rc != 0) {
		va_start(arguments, format);
		char command[1024];
		vsnprintf(command, sizeof(command), format, arguments);
		va_end(arguments);
		place_fail("`%s` failed (%d): %s", command, rc, out);
	}
}

const char *net_missing(void)
{
	char out[256];
	int home = here(), made = unshare(CLONE_NEWNET);
	const char *what = made != 0 ? "network namespaces cannot be made here: root is needed" : NULL;

	if (!what && net_run(out, sizeof(out), "ip link add name one type veth peer name two") != 0)
		what = "no veth: the package iproute2, or the kernel's module veth, is missing";
	if (made == 0)
		net_enter(home);
	close(home);
	return what;
}

/* A new one; the caller is then in it. */
static int make(void)
{
	FILE *f;

	if (unshare(CLONE_NEWNET) != 0)
		place_fail("cannot make a network namespace: %s", strerror(errno));
	/* Nobody speaks but who is asked: packets are counted. */
	f = fopen("/proc/sys/net/ipv6/conf/default/disable_ipv6", "we");
	if (f) {
		fputs("1", f);
		fclose(f);
	}
	net_do("ip link set lo up");
	return here();
}

void net_open(struct net *n)
{
	n->home = here();
	n->client = make();
	n->proxy = make();
	net_do("ip link add " NET_DEV " type veth peer name " NET_DEV " netns /proc/%d/fd/%d", (int)getpid(),
	       n->client);
	net_do("ip address add " NET_PROXY "/24 dev " NET_DEV " && ip link set " NET_DEV " up");
	net_enter(n->client);
	net_do("ip address add " NET_CLIENT "/24 dev " NET_DEV " && ip link set " NET_DEV " up");
	net_enter(n->proxy);
}

void net_close(struct net *n)
{
	net_enter(n->home);
	close(n->home);
	close(n->client);
	close(n->proxy);
}

/* A file of the two-line kind: names, then values. */
static uint64_t snmp(const char *path, const char *group, const char *name)
{
	char names[2048], values[2048], *at_names, *at_values;
	FILE *f = fopen(path, "re");

	if (!f)
		place_fail("cannot read %s: %s", path, strerror(errno));
	while (fgets(names, sizeof(names), f) && fgets(values, sizeof(values), f)) {
		if (strncmp(names, group, strlen(group)) != 0)
			continue;
		char *n = strtok_r(names, " \n", &at_names), *v = strtok_r(values, " \n", &at_values);
		for (; n && v; n = strtok_r(NULL, " \n", &at_names), v = strtok_r(NULL, " \n", &at_values))
			if (strcmp(n, name) == 0) {
				uint64_t value = 0;
				fclose(f);
				sscanf(v, "%" SCNu64, &value);
				return value;
			}
	}
	place_fail("%s has no %s %s", path, group, name);
}

static uint64_t sent_by(const char *device)
{
	char line[512];
	uint64_t sent = UINT64_MAX;
	FILE *f = fopen("/proc/thread-self/net/dev", "re");

	while (f && fgets(line, sizeof(line), f)) {
		const char *colon = strchr(line, ':');
		if (colon && strncmp(line + strspn(line, " "), device, strlen(device)) == 0 &&
		    sscanf(colon + 1, "%*u %*u %*u %*u %*u %*u %*u %*u %*u %" SCNu64, &sent) == 1)
			break;
	}
	if (f)
		fclose(f);
	if (sent == UINT64_MAX)
		place_fail("/proc/net/dev does not say how much %s sent", device);
	return sent;
}

struct net_counts net_count(const struct net *n)
{
	struct net_counts counts;
	int before = here();

	net_enter(n->client);
	counts.packets = sent_by(NET_DEV);
	counts.again = snmp("/proc/thread-self/net/snmp", "Tcp:", "RetransSegs");
	net_enter(before);
	close(before);
	return counts;
}
