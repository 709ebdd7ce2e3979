/*
 * A counter on a TCP port that survives its own death, as examples/python/counter.py: luod keeps the listener and the
 * memory while the program is away.
 *
 *     cc -o counter counter.c luod.c && LIVEUPDATE_SOCKET=/run/luod/host.sock ./counter
 */
#define _GNU_SOURCE
#include "luod.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LISTENER = 1, COUNT = 2 };

static int check(int result, const char *what)
{
	if (result < 0) {
		fprintf(stderr, "%s: %s\n", what, strerror(-result));
		exit(1);
	}
	return result;
}

int main(void)
{
	const char *path = getenv("LIVEUPDATE_SOCKET"), *port = getenv("PORT");
	struct sockaddr_in address = { .sin_family = AF_INET };
	socklen_t length = sizeof(address);
	int luod = check(luod_connect(path ? path : ""), "connect");
	int session = luod_retrieve_session(luod, "counter-c"), listener, memory;
	uint64_t *count;

	if (session >= 0) {
		listener = check(luod_retrieve_fd(session, LISTENER), "listener");
		memory = check(luod_retrieve_fd(session, COUNT), "count");
	} else if (session == -ENOENT) {
		address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		address.sin_port = htons((uint16_t)atoi(port ? port : "0"));
		listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(listener, 64) < 0)
			check(-errno, "listen");
		memory = memfd_create("count", MFD_CLOEXEC);
		if (ftruncate(memory, sizeof(*count)) < 0)
			check(-errno, "memory");
		session = check(luod_create_session(luod, "counter-c", 1), "session");
		check(luod_preserve_fd(session, listener, LISTENER), "keep the listener");
		check(luod_preserve_fd(session, memory, COUNT), "keep the count");
	} else {
		check(session, "retrieve");
		return 1;
	}
	/* Not finished, ever: whatever ends this program, luod has the session again. */
	count = mmap(NULL, sizeof(*count), PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	if (count == MAP_FAILED)
		check(-errno, "map");
	getsockname(listener, (struct sockaddr *)&address, &length);
	printf("%d\n", ntohs(address.sin_port));
	fflush(stdout);
	for (;;) {
		int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		char line[64];
		int bytes;

		if (connection < 0)
			continue;
		bytes = snprintf(line, sizeof(line), "%llu %d\n", (unsigned long long)++*count, (int)getpid());
		if (send(connection, line, (size_t)bytes, MSG_NOSIGNAL) < 0)
			perror("send");
		close(connection);
	}
}
