/* SPDX-License-Identifier: MIT
 * torture.h: what the run costs: memory, descriptors, slots, of the daemon, of the processes, of the instance's files. A
 * sample a second or two; a line of JSON for each, for the plot. torture_flat.c judges them. Coordinator only; uses cmocka. */
#include "daemon.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "../shm/layout.h"
#include "../shm/segment.h"
#include "mp_place.h"
#include "torture.h"
#include "torture_sample.h"

static struct {
	struct mp_place *place;
	uint64_t from_ms, next_ms, every_ms;
	FILE *lines;
	const struct shm_ledger *ledger;
	size_t ledger_size;
} now;

struct samples t_samples;
static const char *const names[QUANTITIES_N] = {
#define X(name, percent, besides, of) #name,
	QUANTITIES(X)
#undef X
};

/* ---- looks ------------------------------------------------------------------------------------------------- */

static unsigned descriptors_of(pid_t pid)
{
	char path[40];
	unsigned n = 0;
	DIR *d;

	snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
	d = opendir(path);
	if (!d)
		return 0;
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

static void memory_of(pid_t pid, double *private_kb, double *shared_kb)
{
	char path[40], line[128];
	unsigned long kb;
	FILE *f;

	snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof line, f)) {
		if (sscanf(line, "RssAnon: %lu", &kb) == 1)
			*private_kb = (double)kb;
		else if (sscanf(line, "RssShmem: %lu", &kb) == 1)
			*shared_kb = (double)kb;
	}
	if (f)
		fclose(f);
}

/* Memory of the files in a directory; how many there are. */
static double files_in(const char *path, double *n)
{
	DIR *d = opendir(path);
	struct dirent *e;
	double kb = 0;
	struct stat st;

	while (d && (e = readdir(d))) {
		if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode)) {
			kb += (double)st.st_blocks / 2;
			*n += 1;
		}
	}
	if (d)
		closedir(d);
	return kb;
}

static void look_at_files(double *v)
{
	const char *dir = now.place->d.dir;
	double others = 0;
	char path[128];

	snprintf(path, sizeof path, "%s/tables", dir);
	v[Q_instance_kb] = files_in(dir, &others) + files_in(path, &others);
	snprintf(path, sizeof path, "%s/readers", dir);
	v[Q_instance_kb] += files_in(path, &v[Q_registrations]);
}

static unsigned ledger_rows(void)
{
	const struct shm_ledger_row *rows = (const void *)((const char *)now.ledger + SHM_PAGE);
	unsigned n = 0;

	for (unsigned i = 0; i < SHM_LEDGER_ROWS; i++)
		n += atomic_load(&rows[i].attach) != 0;
	return n;
}

static unsigned ledger_leases(void)
{
	const struct shm_ledger_lease *leases =
		(const void *)((const char *)now.ledger + SHM_PAGE + SHM_LEDGER_ROWS * sizeof(struct shm_ledger_row) +
			       SHM_LEDGER_CUTOVERS * sizeof(struct shm_ledger_cutover));
	unsigned n = 0;

	for (unsigned i = 0; i < SHM_LEDGER_LEASES; i++)
		n += atomic_load(&leases[i].hash) != 0;
	return n;
}

/* Of those that are themselves at present: the mean, and the most descriptors that one has. */
static void look_at_processes(double *v)
{
	unsigned n = 0;

	for (unsigned i = 0; i < T_PROCESSES; i++) {
		const struct t_process *p = &t_shared->processes[i];
		double private_kb = 0, shared_kb = 0, descriptors;

		if (t_pids[i] == 0 || !atomic_load(&p->running) || atomic_load(&p->died_ms))
			continue;
		memory_of(t_pids[i], &private_kb, &shared_kb);
		descriptors = descriptors_of(t_pids[i]);
		if (shared_kb == 0 || descriptors == 0 || atomic_load(&p->died_ms))
			continue; /* another program by now, or nobody */
		v[Q_reader_private_kb] += private_kb;
		v[Q_reader_shared_kb] += shared_kb;
		if (descriptors > v[Q_reader_descriptors])
			v[Q_reader_descriptors] = descriptors;
		n++;
	}
	v[Q_reader_private_kb] /= n ? n : 1;
	v[Q_reader_shared_kb] /= n ? n : 1;
}

static void look_at_status(const json_t *s, double *v)
{
	v[Q_leases] = (double)int_of(s, "leases");
	v[Q_pins] = (double)int_of(json_object_get(s, "cursors"), "pins");
	v[Q_capacity] = (double)int_of(s, "capacity");
	v[Q_tombstones] = (double)int_of(s, "tombstones");
	v[Q_records_kb] = (double)int_of(s, "record_bytes_used") / 1024;
	v[Q_held_kb] = (double)int_of(s, "held_bytes") / 1024;
	v[Q_retired] = (double)int_of(s, "retired");
	v[Q_connections] = (double)int_of(s, "connections");
}

/* ---- samples ----------------------------------------------------------------------------------------------- */

static void put_about(void)
{
	char model[64] = "unknown", commit[32] = "unknown", line[256];
	struct utsname u = {0};
	FILE *f = fopen("/proc/cpuinfo", "re");

	while (f && fgets(line, sizeof line, f))
		if (sscanf(line, "model name : %63[^\n\"\\]", model) == 1)
			break;
	if (f)
		fclose(f);
	f = popen("git rev-parse --short HEAD 2>/dev/null", "re");
	if (f && fscanf(f, "%31[0-9a-f]", commit) != 1)
		snprintf(commit, sizeof commit, "unknown");
	if (f)
		pclose(f);
	uname(&u);
	fprintf(now.lines,
		"{\"workload\":\"soak\",\"seconds\":%llu,\"machine\":\"%s, %ld CPUs\",\"kernel\":\"%.20s %.40s "
		"%.20s\",\"commit\":\"%s\"}\n",
		(unsigned long long)(t_samples.length_ms / 1000), model, sysconf(_SC_NPROCESSORS_ONLN), u.sysname,
		u.release, u.machine, commit);
}

static void put_line(const json_t *s, double at)
{
	fprintf(now.lines, "{\"workload\":\"soak\",\"t\":%.1f,\"pid\":%d,\"generation\":%lld,\"epoch\":%lld", at,
		(int)now.place->d.pid, (long long)int_of(s, "generation"), (long long)int_of(s, "epoch"));
	for (unsigned q = 0; q < QUANTITIES_N; q++)
		fprintf(now.lines, ",\"%s\":%.0f", names[q], t_samples.values[q][t_samples.n]);
	fprintf(now.lines, "}\n");
	fflush(now.lines);
}

static void ledger_open(void)
{
	char path[128];
	struct stat st;
	int fd;

	snprintf(path, sizeof path, "%s/" SEG_LEDGER, now.place->d.dir);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) != 0)
		fail_msg("%s cannot be opened", path);
	now.ledger_size = (size_t)st.st_size;
	now.ledger = mmap(NULL, now.ledger_size, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	if (now.ledger == MAP_FAILED)
		fail_msg("%s cannot be mapped", path);
}

void t_sample_open(struct mp_place *place, unsigned seconds, const char *path)
{
	memset(&now, 0, sizeof now);
	memset(&t_samples, 0, sizeof t_samples);
	now.place = place;
	now.from_ms = now.next_ms = mp_now_ms();
	t_samples.length_ms = 1000ull * seconds;
	now.every_ms = seconds <= S_MOST / 2 ? 1000 : 1000ull * (seconds / (S_MOST / 2) + 1);
	ledger_open();
	if (!path)
		return;
	now.lines = fopen(path, "we");
	if (!now.lines)
		fail_msg("%s cannot be written", path);
	put_about();
}

void t_sample_step(void)
{
	double v[QUANTITIES_N] = {0};
	json_t *status;

	if (mp_now_ms() < now.next_ms || t_samples.n == S_MOST || !t_ask_status(&status))
		return;
	memory_of(now.place->d.pid, &v[Q_daemon_private_kb], &v[Q_daemon_shared_kb]);
	v[Q_daemon_descriptors] = descriptors_of(now.place->d.pid);
	look_at_processes(v);
	look_at_files(v);
	look_at_status(status, v);
	v[Q_ledger_rows] = ledger_rows();
	v[Q_ledger_leases] = ledger_leases();
	t_samples.at[t_samples.n] = (double)(mp_now_ms() - now.from_ms) / 1000;
	for (unsigned q = 0; q < QUANTITIES_N; q++)
		t_samples.values[q][t_samples.n] = v[q];
	if (now.lines)
		put_line(status, t_samples.at[t_samples.n]);
	json_decref(status);
	t_samples.n++;
	now.next_ms += now.every_ms;
	if (now.next_ms < mp_now_ms())
		now.next_ms = mp_now_ms() + now.every_ms;
}

/* ---- the end ----------------------------------------------------------------------------------------------- */

static bool all_given_back(double v[QUANTITIES_N])
{
	json_t *s;

	memset(v, 0, QUANTITIES_N * sizeof v[0]);
	if (!t_ask_status(&s))
		return false;
	look_at_status(s, v);
	look_at_files(v);
	json_decref(s);
	return v[Q_registrations] == 0 && ledger_rows() == 0 && v[Q_retired] == 0 && v[Q_held_kb] == 0 &&
	       v[Q_leases] == 0;
}

void t_sample_nothing_left(void)
{
	double v[QUANTITIES_N];
	unsigned before, after;

	MP_UNTIL(all_given_back(v), 20000);
	before = descriptors_of(now.place->d.pid);
	t_start_daemon_anew();
	after = descriptors_of(now.place->d.pid);
	printf("note: descriptors of the daemon at the end %u, of a new one %u\n", before, after);
	if (before > after + 2)
		fail_msg("the daemon has %u descriptors open after all have left, a new one %u", before, after);
	if (now.lines)
		fclose(now.lines);
	munmap((void *)(uintptr_t)now.ledger, now.ledger_size);
}
