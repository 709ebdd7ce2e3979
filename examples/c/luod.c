/* See luod.h. A reply is one line of JSON; the few words of it that matter are found without a JSON library. */
#define _GNU_SOURCE
#include "luod.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { LINE_BYTES = 4096 };

int luod_connect(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd, error;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		error = -errno;
		close(fd);
		return error;
	}
	return fd;
}

/* Sends a line, with a descriptor if fd is not negative. */
static int send_line(int to, const char *line, int fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	size_t length = strlen(line), sent = 0;

	while (sent < length) {
		struct iovec data = { .iov_base = (char *)line + sent, .iov_len = length - sent };
		struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1 };
		ssize_t result;

		if (fd >= 0 && sent == 0) {
			struct cmsghdr *header;

			message.msg_control = control.bytes;
			message.msg_controllen = sizeof(control.bytes);
			header = CMSG_FIRSTHDR(&message);
			header->cmsg_level = SOL_SOCKET;
			header->cmsg_type = SCM_RIGHTS;
			header->cmsg_len = CMSG_LEN(sizeof(int));
			memcpy(CMSG_DATA(header), &fd, sizeof(int));
		}
		result = sendmsg(to, &message, MSG_NOSIGNAL);
		if (result < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		sent += (size_t)result;
	}
	return 0;
}

/* Receives a line and at most one descriptor. */
static int receive_line(int from, char *line, int *fd)
{
	size_t length = 0;

	*fd = -1;
	while (length < LINE_BYTES - 1) {
		union {
			char bytes[CMSG_SPACE(sizeof(int))];
			struct cmsghdr align;
		} control;
		struct iovec data = { .iov_base = line + length, .iov_len = 1 };
		struct msghdr message = {
			.msg_iov = &data, .msg_iovlen = 1,
			.msg_control = control.bytes, .msg_controllen = sizeof(control.bytes),
		};
		/* Byte by byte, so that nothing of the next line is taken. */
		ssize_t result = recvmsg(from, &message, MSG_CMSG_CLOEXEC);
		struct cmsghdr *header;

		if (result < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		if (result == 0)
			return -EPIPE;
		header = CMSG_FIRSTHDR(&message);
		if (header && header->cmsg_type == SCM_RIGHTS)
			memcpy(fd, CMSG_DATA(header), sizeof(int));
		if (line[length++] == '\n') {
			line[length] = '\0';
			return 0;
		}
	}
	return -EMSGSIZE;
}

/* One question and its answer. Returns the descriptor that came, or 0. */
static int ask(int to, const char *request, int fd)
{
	/* The same question with "retry", for a luod that took over before the last one had answered. */
	char line[LINE_BYTES], again[LINE_BYTES + sizeof("{\"retry\":true,")];
	int own, error = send_line(to, request, fd);
	char *number;

	snprintf(again, sizeof(again), "{\"retry\":true,%s", request + 1);
	for (;;) {
		if (!error)
			error = receive_line(to, line, &own);
		if (error)
			return error;
		if (!strstr(line, "\"type\":\"restarted\""))
			break;
		/* It threw away what it found, up to this word; the first of the two may end a line that was half read. */
		error = send_line(to, "{\"type\":\"resume\"}\n{\"type\":\"resume\"}\n", -1);
		if (!error)
			error = send_line(to, again, fd);
	}
	if (strstr(line, "\"ok\":true"))
		return own >= 0 ? own : 0;
	if (own >= 0)
		close(own);
	number = strstr(line, "\"errno\":");
	return number ? atoi(number + strlen("\"errno\":")) : -EPROTO;
}

/* Names go into JSON as they are: letters, digits and a few others. */
static int is_plain(const char *name)
{
	return name[strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/ ")] == '\0';
}

static int session(int luod, const char *type, const char *name, const char *more)
{
	char request[LINE_BYTES];

	if (!is_plain(name))
		return -EINVAL;
	if (snprintf(request, sizeof(request), "{\"type\":\"%s\",\"name\":\"%s\"%s}\n", type, name, more) >= (int)sizeof(request))
		return -EINVAL;
	return ask(luod, request, -1);
}

int luod_create_session(int luod, const char *name, int hold)
{
	return session(luod, "create_session", name, hold ? ",\"custody\":\"hold\"" : "");
}

int luod_retrieve_session(int luod, const char *name)
{
	return session(luod, "retrieve_session", name, "");
}

static int with_token(int to, const char *type, uint64_t token, int fd)
{
	char request[128];

	snprintf(request, sizeof(request), "{\"type\":\"%s\",\"token\":\"%" PRIu64 "\"%s}\n", type, token,
		 fd >= 0 ? ",\"fds\":1" : "");
	return ask(to, request, fd);
}

int luod_preserve_fd(int to, int fd, uint64_t token)
{
	return with_token(to, "preserve_fd", token, fd);
}

int luod_retrieve_fd(int from, uint64_t token)
{
	return with_token(from, "retrieve_fd", token, -1);
}

int luod_finish(int from)
{
	return ask(from, "{\"type\":\"finish\"}\n", -1);
}
