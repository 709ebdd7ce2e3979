/*
 * A client of luod in C: sessions that keep a program's live files while the program is replaced.
 * Needs a C11 compiler and Linux. The protocol is described in docs/protocol.md.
 *
 * Every call returns 0, a descriptor, or a negative errno, as the kernel's orchestrator answers.
 * One thread at a time may use a connection or a session.
 */
#ifndef LUOD_H
#define LUOD_H

#include <stdint.h>

/* Connects to luod's socket; the result is for luod_create_session and luod_retrieve_session, and close(2). */
int luod_connect(const char *path);

/* A session's descriptor. hold: keep the files for the next owner when the last duplicate of it is closed. */
int luod_create_session(int luod, const char *name, int hold);

/* A session that its owner left. -ENOENT when none was left, -EINVAL when it has its next owner already. */
int luod_retrieve_session(int luod, const char *name);

/* Keeps the file behind fd, which may be closed afterwards. */
int luod_preserve_fd(int session, int fd, uint64_t token);

/* A descriptor of the file under token. */
int luod_retrieve_fd(int session, uint64_t token);

/* luod gives the files up. */
int luod_finish(int session);

#endif
