/* SPDX-License-Identifier: MIT
 * fault_place.h. */
#include "fault_place.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "left_over.h"

/* ---- the plan --------------------------------------------------------------------------------------------------- */

struct faults *fault_plan_make(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct faults *plan = MAP_FAILED;

	if (fd >= 0 && ftruncate(fd, sizeof *plan) == 0)
		plan = mmap(NULL, sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (plan == MAP_FAILED)
		fail_msg("%s: %s", path, strerror(errno));
	close(fd);
	return plan;
}

void fault_plan_free(struct faults **plan)
{
	munmap(*plan, sizeof **plan);
	*plan = NULL;
}

static const char *library(void)
{
	static char path[PATH_MAX];

	if (!realpath(daemon_program("tests/faults.so"), path))
		fail_msg("%s: %s", daemon_program("tests/faults.so"), strerror(errno));
	return path;
}

bool fault_possible(void)
{
#ifdef __SANITIZE_THREAD__
	return false;
#else
	return true;
#endif
}

/* For programs that are started from now on. Under AddressSanitizer a malloc can fail too, and a process that has lost
 * memory, or done worse, ends with 99. */
static void preload(const char *plan)
{
	static const char more[] = "verify_asan_link_order=0:allocator_may_return_null=1:exitcode=99";
	static char before[512];
	char options[700];

	if (!plan) {
		unsetenv("LD_PRELOAD");
		unsetenv("BERTH_FAULTS");
		setenv("ASAN_OPTIONS", before, 1);
		return;
	}
	setenv("LD_PRELOAD", library(), 1);
	setenv("BERTH_FAULTS", plan, 1);
	snprintf(before, sizeof before, "%s", getenv("ASAN_OPTIONS") ? getenv("ASAN_OPTIONS") : "");
	snprintf(options, sizeof options, "%s:%s:detect_leaks=1", before, more);
	setenv("ASAN_OPTIONS", options, 1);
}

static char own_plan[] = "/tmp/berth-faults-XXXXXX";

void fault_share(bool on)
{
	preload(on ? own_plan : NULL);
}

struct faults *fault_run_self(char **argv)
{
	const char *given = getenv("BERTH_FAULTS");
	struct faults *plan;
	int fd;

	if (!given) {
		fd = mkstemp(own_plan);
		if (fd < 0 || ftruncate(fd, sizeof *plan) != 0) {
			perror(own_plan);
			exit(1);
		}
		fault_share(true);
		execv("/proc/self/exe", argv);
		perror("/proc/self/exe");
		exit(1);
	}
	snprintf(own_plan, sizeof own_plan, "%s", given);
	fault_share(false);
	left_over_put(own_plan);
	fd = open(own_plan, O_RDWR | O_CLOEXEC);
	plan = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (plan == MAP_FAILED) {
		perror(own_plan);
		exit(1);
	}
	close(fd);
	return plan;
}

const char *fault_name(enum fault_call call)
{
#define NAME(c, name) [CALL_##c] = name,
	static const char *const names[] = {FAULT_CALLS(NAME)};
#undef NAME

	return names[call];
}

const int *fault_errors(enum fault_call call)
{
	static const int errors[CALLS][5] = {
		[CALL_OPEN] = {EMFILE, ENOMEM, EINTR},
		[CALL_MMAP] = {ENOMEM},
		[CALL_MPROTECT] = {ENOMEM},
		[CALL_MADVISE] = {ENOMEM},
		[CALL_FTRUNCATE] = {EIO},
		[CALL_FALLOCATE] = {ENOSPC, EINTR},
		[CALL_RENAME] = {ENOSPC},
		[CALL_UNLINK] = {EROFS},
		[CALL_MKDIR] = {ENOSPC},
		[CALL_FSYNC] = {EIO, ENOSPC},
		[CALL_READ] = {EIO, EINTR, FAULT_SHORT},
		[CALL_PREAD] = {EIO, EINTR, FAULT_SHORT},
		[CALL_WRITE] = {ENOSPC, EINTR, FAULT_SHORT},
		[CALL_PWRITE] = {ENOSPC, EIO, EINTR, FAULT_SHORT},
		[CALL_SEND] = {ENOBUFS, EINTR, FAULT_SHORT},
		[CALL_SENDMSG] = {ENOBUFS, EINTR, FAULT_SHORT},
		[CALL_RECVMSG] = {ENOMEM, EINTR, FAULT_SHORT},
		[CALL_SOCKET] = {EMFILE},
		[CALL_BIND] = {ENOSPC},
		[CALL_LISTEN] = {EADDRINUSE},
		[CALL_ACCEPT] = {EMFILE, ENOMEM, EINTR, ECONNABORTED},
		[CALL_CONNECT] = {EINTR, EAGAIN, ECONNREFUSED},
		[CALL_SOCKOPT] = {ENOBUFS},
		[CALL_EVENTFD] = {EMFILE},
		[CALL_EPOLL_CREATE] = {EMFILE},
		[CALL_EPOLL_CTL] = {ENOSPC},
		[CALL_EPOLL_WAIT] = {EINTR},
		[CALL_TIMERFD] = {EMFILE},
		[CALL_PIDFD_OPEN] = {EMFILE},
		[CALL_MEMBARRIER] = {ENOMEM},
		[CALL_FUTEX] = {EINTR},
		[CALL_SETLEASE] = {ENOMEM},
		[CALL_LOCK] = {ENOLCK, EINTR},
		[CALL_RECORD_LOCK] = {ENOLCK},
		[CALL_DUP] = {EMFILE},
		[CALL_THREAD] = {EAGAIN},
		[CALL_MALLOC] = {ENOMEM},
		[CALL_RECORD] = {ENOMEM},
		[CALL_GETRANDOM] = {EINTR},
		[CALL_FSTAT] = {EIO},
		[CALL_OWNER] = {EPERM},
		[CALL_MODE] = {EROFS},
		[CALL_POLL] = {EINTR, ENOMEM},
		[CALL_NANOSLEEP] = {EINTR},
		[CALL_GROUP] = {EMFILE},
		[CALL_READDIR] = {ENOMEM},
		[CALL_MLOCK] = {ENOMEM},
	};

	return errors[call];
}

const char *fault_error_name(int error)
{
	return error == FAULT_SHORT ? "a part of the bytes" : strerrorname_np(error);
}

void fault_arm(struct faults *plan, enum fault_call call, int64_t n, int error, bool lasting, const char *in_path)
{
	atomic_store(&plan->call, 0);
	snprintf(plan->in_path, sizeof plan->in_path, "%s", in_path ? in_path : "");
	atomic_store(&plan->left, n);
	atomic_store(&plan->lasting, lasting);
	atomic_store(&plan->error, error);
	atomic_store(&plan->fired, 0);
	atomic_store(&plan->call, (uint32_t)call + 1); /* last: pairs with passes() */
}

unsigned fault_disarm(struct faults *plan)
{
	atomic_store(&plan->call, 0);
	return (unsigned)atomic_load(&plan->fired);
}

void fault_count(struct faults *plan)
{
	for (unsigned i = 0; i < CALLS; i++)
		atomic_store(&plan->passes[i], 0);
}

int64_t fault_nth(uint64_t passes, unsigned most, unsigned k)
{
	if (passes <= most)
		return k < passes ? (int64_t)k + 1 : 0;
	return k < most ? (int64_t)(k * passes / most) + 1 : 0;
}

/* ---- the daemon ------------------------------------------------------------------------------------------------- */

_Noreturn void fault_fail(struct fault_place *p, const char *format, ...)
{
	char text[2000], *log = daemon_log(&p->d);
	size_t len = strlen(log);
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	fail_msg("%s: %s\nend of its log:\n%s", p->doing, text, log + (len > 3000 ? len - 3000 : 0));
	abort();
}

bool fault_place_start(struct fault_place *p, const char *const *options, int *status)
{
	uint64_t deadline = test_now_ms() + DAEMON_MS;
	struct pollfd f[2];
	char text[512];

	preload(p->plan_path);
	daemon_spawn_with(&p->d, options);
	preload(NULL);
	f[0] = (struct pollfd){.fd = p->d.notify_fd, .events = POLLIN};
	f[1] = (struct pollfd){.fd = p->d.pidfd, .events = POLLIN};
	while (test_now_ms() < deadline) {
		ssize_t n;

		poll(f, 2, 100);
		n = recv(p->d.notify_fd, text, sizeof text - 1, 0);
		if (n > 0) {
			text[n] = '\0';
			if (strstr(text, "READY=1"))
				return true;
		} else if (f[1].revents & POLLIN) {
			*status = daemon_wait(&p->d);
			return false;
		}
	}
	fault_fail(p, "berthd is neither ready nor gone after %d ms", DAEMON_MS);
}

void fault_lives(struct fault_place *p)
{
	struct pollfd f = {.fd = p->d.pidfd, .events = POLLIN};

	usleep(1000); /* a process that ends has closed its sockets before its end is told */
	if (poll(&f, 1, 0) == 1)
		fault_fail(p, "berthd has ended with %d", daemon_wait(&p->d));
}

void fault_place_admin(struct fault_place *p)
{
	if (!p->admin_open)
		wire_open(&p->admin, &p->d, WIRE_ADMIN);
	p->admin_open = true;
}

static void admin_close(struct fault_place *p)
{
	if (p->admin_open)
		wire_close(&p->admin);
	p->admin_open = false;
}

void fault_place_make(struct fault_place *p, const char *store, const char *const *options)
{
	int status;

	memset(p, 0, sizeof *p);
	daemon_make(&p->d, store);
	snprintf(p->plan_path, sizeof p->plan_path, "%s/faults", p->d.home);
	p->plan = fault_plan_make(p->plan_path);
	strcpy(p->doing, "without a fault");
	if (!fault_place_start(p, options, &status))
		fault_fail(p, "berthd ended with %d", status);
	fault_place_admin(p);
	wire_do(&p->admin, "cluster.set", "{s:s, s:s}", "id", "c1", "endpoint", "http://10.0.0.1:9200");
	wire_do(&p->admin, "cluster.set", "{s:s}", "id", "c2");
	wire_do(&p->admin, "set", "{s:s, s:{s:s, s:s, s:s}}", "partition", "acme", "placement", "mode",
		"dedicated-index", "cluster", "c1", "index", "acme-index");
	assert_int_equal(berth_attach(p->d.dir, NULL, &p->b), BERTH_OK);
	assert_int_equal(berth_reader_open(p->b, &p->r), BERTH_OK);
}

void fault_place_remove(struct fault_place *p)
{
	admin_close(p);
	berth_reader_close(&p->r);
	berth_detach(&p->b);
	daemon_remove(&p->d);
	fault_plan_free(&p->plan);
}

/* ---- asking ----------------------------------------------------------------------------------------------------- */

json_t *fault_answer(struct fault_place *p, const char *method)
{
	struct pollfd f = {.fd = p->admin.fd, .events = POLLIN};
	json_t *answer;
	char *line;

	if (!p->admin.len && poll(&f, 1, DAEMON_MS) != 1)
		fault_fail(p, "no answer to %s within %d ms", method, DAEMON_MS);
	line = wire_line(&p->admin, DAEMON_MS);
	if (!line) {
		admin_close(p);
		fault_lives(p);
		return NULL;
	}
	answer = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
	if (!json_is_object(answer))
		fault_fail(p, "this is no answer: %.300s", line);
	free(line);
	return answer;
}

json_t *fault_ask(struct fault_place *p, const char *method, const char *params, ...)
{
	json_t *packed = NULL, *whole;
	va_list args;
	char *text;
	bool sent;

	va_start(args, params);
	if (params)
		packed = json_vpack_ex(NULL, 0, params, args);
	va_end(args);
	fault_place_admin(p);
	whole = json_pack("{s:s, s:i, s:s, s:o*}", "jsonrpc", "2.0", "id", (int)++p->admin.id, "method", method,
			  "params", packed);
	text = json_dumps(whole, JSON_COMPACT | JSON_EMBED);
	json_decref(whole);
	sent = wire_text(&p->admin, "{") && wire_text(&p->admin, text) && wire_text(&p->admin, "}\n");
	free(text);
	if (sent)
		return fault_answer(p, method);
	admin_close(p);
	return NULL;
}

bool fault_done(const json_t *answer)
{
	return json_object_get(answer, "result") != NULL;
}

const char *fault_code(const json_t *answer)
{
	return text_of(json_object_get(json_object_get(answer, "error"), "data"), "code");
}

/* ---- looking ---------------------------------------------------------------------------------------------------- */

/* NULL: the default, seen through a partition that has no placement of its own. */
static const char *const keys[] = {"acme", "globex", "mover", "many-0", "many-1", "many-4", "doc-a", "doc-b", NULL};

bool fault_route(struct fault_place *p, const char *key, struct berth_route *route)
{
	int rc = berth_route(p->r, key, strlen(key), route);

	if (rc != BERTH_OK && rc != BERTH_E_UNKNOWN)
		fault_fail(p, "the reader's look-up of %s answers %s", key, berth_strerror(rc));
	return rc == BERTH_OK;
}

bool fault_index_is(struct fault_place *p, const char *key, const char *index)
{
	struct berth_placement at;
	bool is;

	berth_read_begin(p->r);
	is = berth_lookup(p->r, key, strlen(key), &at) == BERTH_OK && strcmp(at.index, index) == 0;
	berth_read_end(p->r);
	return is;
}

char *fault_view(struct fault_place *p)
{
	char *text = calloc(1, 4096), line[400];

	berth_maintain(p->b);
	for (unsigned i = 0; i < sizeof keys / sizeof keys[0]; i++) {
		const char *key = keys[i] ? keys[i] : "nobody-s";
		json_t *says = fault_ask(p, "get", "{s:s}", "partition", key), *result;
		struct berth_placement at = {0};
		char state[300] = "-";
		int rc;

		berth_read_begin(p->r);
		rc = berth_lookup(p->r, key, strlen(key), &at);
		result = json_object_get(says, "result");
		if (!says || (rc == BERTH_OK) != (result != NULL) || (rc != BERTH_OK && rc != BERTH_E_UNKNOWN))
			fault_fail(p, "%s: a look-up answers %d, get %s", key, rc,
				   says ? json_dumps(says, 0) : "nothing");
		if (result) {
			const json_t *shown = json_object_get(result, "state");
			const char *index = json_string_value(json_object_get(json_object_get(shown, "at"), "index"));

			if (int_of(result, "epoch") != (json_int_t)at.epoch ||
			    (json_object_get(shown, "phase") != NULL) != (at.phase != BERTH_SETTLED) ||
			    strcmp(index ? index : "", at.index) != 0)
				fault_fail(p, "%s: a look-up finds epoch %llu, phase %d, index `%s`, get %s", key,
					   (unsigned long long)at.epoch, at.phase, at.index, json_dumps(says, 0));
			json_dumpb(shown, state, sizeof state - 1, JSON_SORT_KEYS | JSON_COMPACT);
		}
		snprintf(line, sizeof line, "%s %llu %d %d %s\n", key, (unsigned long long)at.epoch, at.cluster,
			 at.is_default, state);
		berth_read_end(p->r);
		strcat(text, line);
		json_decref(says);
	}
	return text;
}

unsigned fault_descriptors(const struct fault_place *p)
{
	char path[40];
	struct dirent *e;
	unsigned n = 0;
	DIR *d;

	snprintf(path, sizeof path, "/proc/%d/fd", p->d.pid);
	d = opendir(path);
	while (d && (e = readdir(d)))
		n += e->d_name[0] != '.';
	if (d)
		closedir(d);
	return n;
}

uint64_t fault_cpu_ms(const struct fault_place *p)
{
	unsigned long user = 0, kernel = 0;
	char path[40], text[512] = "", *at;
	FILE *f;

	snprintf(path, sizeof path, "/proc/%d/stat", p->d.pid);
	f = fopen(path, "r");
	if (f) {
		if (fgets(text, sizeof text, f) && (at = strrchr(text, ')')))
			sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &kernel);
		fclose(f);
	}
	return (user + kernel) * 1000 / (unsigned long)sysconf(_SC_CLK_TCK);
}
