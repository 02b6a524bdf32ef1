/* SPDX-License-Identifier: MIT
 * libberth-seal: cursor ids that carry their cluster. A scroll or point-in-time id means something only on the cluster
 * that made it; what the proxy hands to its client instead is an envelope: the id, the cluster, the partition and a
 * keyed MAC over all of it, as one word of base64url. The proxy keeps no state; any proxy with the same key file opens
 * it. This is the whole public interface; README.md of this folder and berth_seal(3) introduce it.
 *
 *   struct berth_seal *s;  struct berth_unsealed u;  char envelope[BERTH_SEALED_SIZE];
 *   berth_seal_open("/etc/berth/seal.keys", &s);
 *   berth_seal_cursor(s, "c1", 2, "acme", 4, id, id_len, envelope, sizeof envelope, NULL);    ... to the client
 *   if (berth_seal_unseal(s, envelope, strlen(envelope), "acme", 4, &u) == BERTH_OK) ... u.cluster, u.id ...
 *   berth_seal_close(&s);
 *
 * An envelope is authenticated, not encrypted: its holder can read the cluster's name and the upstream id. It is bound
 * to its partition, and it has no end of its own: it opens as long as its key is in the key file.
 *
 * Threads. One struct berth_seal serves all threads of a process: every call but berth_seal_close from any number of
 * them at once. No call from a signal handler. No call creates a thread, prints or installs a handler. (libsodium ends
 * the process when it finds the guards around its secrets overwritten.)
 *
 * Fork. A child may go on with its parent's handle if no other thread was inside a call at the fork; each process then
 * follows the key file for itself. The child's copy of the keys is not locked into memory.
 *
 * Errors. Each call returns BERTH_OK (0) or a negative code of berth_errors.h, and on an error leaves what it would fill
 * as it was. berth_seal_strerror has the texts; the library does not need libberth. BERTH_E_SYSTEM leaves its cause in
 * errno; errno means nothing after any other return. BERTH_E_INVAL (a null pointer where none may be, a length out of
 * range) may come from every call. */
#ifndef BERTH_SEAL_H
#define BERTH_SEAL_H

#include <stddef.h>
#include <stdint.h>

#include "berth_errors.h"

#ifdef __cplusplus
extern "C" {
#endif

struct berth_seal; /* the keys of one key file */

/* Longest of each, in bytes; the shortest is 1. */
enum {
	BERTH_SEAL_CLUSTER_MAX = 63,
	BERTH_SEAL_PARTITION_MAX = 255,
	BERTH_SEAL_ID_MAX = 4096,
	BERTH_SEALED_SIZE = 5920 /* room for any envelope and its NUL */
};

/* Reads a key file and keeps its path; a relative one is looked up from the working directory at each reading. The file
 * is read again by itself: when it has another inode, size or time (looked at once a second at most, by a call of
 * berth_seal_cursor or berth_seal_unseal), and when an envelope names a key that is not known. So keys rotate without a
 * restart. A new file that is wrong, unsafe or gone leaves the keys as they were: berth_seal_reload says what is the
 * matter. Any thread.
 *
 * *out is the caller's, until berth_seal_close. Without it (no file, no key) every call is refused.
 *   BERTH_E_UNSAFE      no regular file (a symlink, a pipe), its owner is not root, user berth or this process's user,
 *                       others have access to it or its group may write it
 *   BERTH_E_CORRUPT     the file has a line that is no key, an id twice, or no key: `berth seal inspect` says which
 *   BERTH_E_PERMISSION  this process may not read it
 *   BERTH_E_NOMEM
 *   BERTH_E_SYSTEM      it cannot be opened or read: errno */
int berth_seal_open(const char *key_file, struct berth_seal **out);

/* Wipes and frees the keys and sets *s to NULL. A null *s is allowed. No other call may run on it. */
void berth_seal_close(struct berth_seal **s);

/* Reads the key file now: after a rotation, or to learn what is wrong with it. On an error the keys are those of before.
 * May wait for another thread that reads it. Errors as of berth_seal_open. */
int berth_seal_reload(struct berth_seal *s);

/* Room that the envelope of such lengths takes, with its NUL; 0 when a length is out of range. */
size_t berth_seal_size(size_t cluster_len, size_t partition_len, size_t id_len);

/* Seals an upstream cursor id with the newest key whose time has come, and writes the envelope (A-Z a-z 0-9 - _) and a
 * NUL into out. cluster: the id of the cluster that made the cursor, A-Z a-z 0-9 . _ - only. partition: whose cursor it
 * is; only berth_seal_unseal for the same one opens it. id: any bytes. *out_len: length without the NUL; out_len may be
 * NULL. Equal arguments under one key make equal envelopes. Takes a microsecond, and ten for the longest id; once a
 * second it looks at the key file.
 *   BERTH_E_INVAL  a length is out of range, the cluster has another character, or size is below berth_seal_size()
 *   BERTH_E_AGAIN  503: every key of the file has a time that has not come yet
 * It answers no other code. */
int berth_seal_cursor(struct berth_seal *s, const char *cluster, size_t cluster_len, const void *partition,
		      size_t partition_len, const void *id, size_t id_len, char *out, size_t size, size_t *out_len);

/* What was sealed. Both texts have a NUL behind them. */
struct berth_unsealed {
	uint32_t key_id; /* the key that sealed it */
	uint16_t cluster_len;
	uint16_t id_len;
	uint32_t reserved[6];
	char cluster[64]; /* id of the cluster, to be looked up by name */
	char id[4100];    /* the upstream id; any bytes */
};

/* Opens an envelope for a partition, with whichever key of the file sealed it. envelope: len bytes, a NUL is not needed;
 * anything at all may come from a client. *out is the caller's memory, filled on BERTH_OK alone.
 *   BERTH_E_UNKNOWN    404: no envelope that a key of the file has sealed: cut, changed in a single bit, written in
 *                      another way, of a dropped key, or none at all
 *   BERTH_E_NOT_OWNER  403: an authentic envelope of another partition
 * It answers no other code but BERTH_E_INVAL. */
int berth_seal_unseal(struct berth_seal *s, const char *envelope, size_t len, const void *partition,
		      size_t partition_len, struct berth_unsealed *out);

/* English text of a code, static, never null. Any thread. */
const char *berth_seal_strerror(int code);

#ifdef __cplusplus
}
#endif

#endif
